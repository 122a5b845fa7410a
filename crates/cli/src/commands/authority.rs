//! A certificate authority for one cluster: files in a folder, made and used by `evenkeel tls`.
//!
//! Keys never leave the folder, and nobody but their owner can read them. What is replaced is replaced whole: key
//! first, certificate last, each by a rename, so that a process that looks in between keeps what it has.

use std::fs::OpenOptions;
use std::io::Write;
use std::net::IpAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use evenkeel_security::role_uri;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};

use crate::output::outcome::Failure;

const CA_CERTIFICATE: &str = "ca.crt";
const CA_KEY: &str = "ca.key";
const CA_VALID_FOR: Duration = Duration::from_secs(10 * 365 * 86_400);
/// Clocks that are behind by this accept a new certificate all the same.
const BACKDATED: Duration = Duration::from_secs(300);
/// Longer names do not fit a common name.
const NAME_BYTES_MAX: usize = 64;

/// Whose certificate, and for what.
#[derive(Clone, Debug)]
pub struct Wanted<'a> {
    /// Also the name of its files.
    pub name: &'a str,
    /// Names and addresses under which it is dialled; none for mere callers.
    pub hosts: &'a [String],
    pub roles: &'a [&'static str],
    pub valid_for: Duration,
}

/// The folder of an authority.
#[derive(Clone, Debug)]
pub struct Authority<'a> {
    folder: &'a Path,
}

impl<'a> Authority<'a> {
    /// Makes a new authority. Changes nothing when there is one.
    pub fn create(folder: &'a Path, name: &str) -> Result<Self, Failure> {
        let this = Self { folder };
        std::fs::create_dir_all(folder).map_err(|error| this.failed(folder, &error))?;
        for file in [CA_CERTIFICATE, CA_KEY] {
            if folder.join(file).exists() {
                let (file, folder) = (folder.join(file), folder.display());
                return Err(Failure::usage(format!(
                    "{}: there is an authority already; issue certificates of it with `evenkeel tls issue {folder}`, or \
                     name another folder",
                    file.display()
                )));
            }
        }
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name = common_name(name);
        set_validity(&mut params, CA_VALID_FOR);
        let key = KeyPair::generate().map_err(|error| internal(&error))?;
        let pem = key.serialize_pem();
        let certificate = CertifiedIssuer::self_signed(params, key).map_err(|error| internal(&error))?.pem();
        this.write(CA_KEY, &pem, 0o600)?;
        this.write(CA_CERTIFICATE, &certificate, 0o644)?;
        Ok(this)
    }

    /// The authority of this folder.
    pub fn open(folder: &'a Path) -> Self {
        Self { folder }
    }

    /// Where a certificate is, and its key.
    pub fn files(&self, name: &str) -> [PathBuf; 2] {
        [self.folder.join(format!("{name}.crt")), self.folder.join(format!("{name}.key"))]
    }

    /// Issues a certificate with a key of its own. One that is there is replaced only if that is wished.
    pub fn issue(&self, wanted: &Wanted<'_>, replace: bool) -> Result<PathBuf, Failure> {
        let Wanted { name, hosts, roles, valid_for } = wanted;
        check_name(name)?;
        let [certificate_file, key_file] = self.files(name);
        if !replace && (certificate_file.exists() || key_file.exists()) {
            return Err(Failure::usage(format!(
                "{}: is there already; renew it with --replace, or give another name",
                certificate_file.display()
            )));
        }
        let issuer = self.issuer()?;
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(name);
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        if !hosts.is_empty() {
            params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        }
        params.use_authority_key_identifier_extension = true;
        for host in *hosts {
            params.subject_alt_names.push(host_name(host)?);
        }
        for role in *roles {
            let uri = role_uri(role).try_into().map_err(|error| internal(&error))?;
            params.subject_alt_names.push(SanType::URI(uri));
        }
        set_validity(&mut params, *valid_for);
        let key = KeyPair::generate().map_err(|error| internal(&error))?;
        let certificate = params.signed_by(&key, &issuer).map_err(|error| internal(&error))?;
        self.write(&format!("{name}.key"), &key.serialize_pem(), 0o600)?;
        self.write(&format!("{name}.crt"), &certificate.pem(), 0o644)?;
        Ok(certificate_file)
    }

    fn issuer(&self) -> Result<Issuer<'static, KeyPair>, Failure> {
        let read = |file: &str| {
            let path = self.folder.join(file);
            std::fs::read_to_string(&path).map_err(|error| {
                let folder = self.folder.display();
                Failure::usage(format!(
                    "{}: {error}; name the folder of an authority, `evenkeel tls init {folder}` makes one",
                    path.display()
                ))
            })
        };
        let (certificate, key) = (read(CA_CERTIFICATE)?, read(CA_KEY)?);
        let unusable = |file: &str, error: &dyn std::fmt::Display| {
            Failure::usage(format!("{}: {error}; restore it from a copy", self.folder.join(file).display()))
        };
        let key = KeyPair::from_pem(&key).map_err(|error| unusable(CA_KEY, &error))?;
        Issuer::from_ca_cert_pem(&certificate, key).map_err(|error| unusable(CA_CERTIFICATE, &error))
    }

    /// Writes beside and renames, so that the file is whole whenever it is there.
    fn write(&self, name: &str, text: &str, mode: u32) -> Result<(), Failure> {
        let (path, beside) = (self.folder.join(name), self.folder.join(format!(".{name}.new")));
        let written = write_new(&beside, text, mode).and_then(|()| std::fs::rename(&beside, &path));
        written.map_err(|error| self.failed(&path, &error))
    }

    fn failed(&self, path: &Path, error: &std::io::Error) -> Failure {
        Failure::usage(format!("{}: {error}; name a folder that can be written", path.display()))
    }
}

/// Writes a file with these permissions from its first byte on; one that is there is written anew.
pub fn write_new(path: &Path, text: &str, mode: u32) -> std::io::Result<()> {
    let removed = std::fs::remove_file(path);
    if let Err(error) = removed
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error);
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn check_name(name: &str) -> Result<(), Failure> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let is_file_name = !name.is_empty() && !name.starts_with('.') && name.chars().all(allowed);
    if !is_file_name || name.len() > NAME_BYTES_MAX || name == "ca" {
        return Err(Failure::usage(format!(
            "{name:?}: not a name for a certificate; use 1 to {NAME_BYTES_MAX} letters, digits, '-', '_' or '.', and not ca"
        )));
    }
    Ok(())
}

fn host_name(host: &str) -> Result<SanType, Failure> {
    if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
        return Ok(SanType::IpAddress(address));
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.*".contains(c);
    let name = host.to_owned().try_into().ok().filter(|_| !host.is_empty() && host.chars().all(allowed));
    name.map(SanType::DnsName).ok_or_else(|| {
        Failure::usage(format!("{host:?}: not a host; write a name or an address, without a port"))
    })
}

fn common_name(name: &str) -> DistinguishedName {
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, name);
    subject
}

fn set_validity(params: &mut CertificateParams, valid_for: Duration) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + now.saturating_sub(BACKDATED);
    params.not_after = epoch + now + valid_for;
}

fn internal(error: &dyn std::fmt::Display) -> Failure {
    Failure::new(1, format!("making a certificate: {error}"))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use evenkeel_security::{Certificate, Shown};

    use super::*;

    fn wanted<'a>(name: &'a str, hosts: &'a [String]) -> Wanted<'a> {
        Wanted { name, hosts, roles: &["broker"], valid_for: Duration::from_secs(3600) }
    }

    #[test]
    fn what_is_issued_is_trusted_and_only_its_owner_can_read_the_key() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(folder.path(), "ours").unwrap();
        let hosts = ["127.0.0.1".to_owned(), "a.example.net".to_owned()];
        let file = authority.issue(&wanted("broker-0", &hosts), false).unwrap();
        let shown = Shown::by_file(&file).unwrap();
        assert_eq!(shown.distrusted_by(&folder.path().join("ca.crt")).unwrap(), None);
        let certificate = Certificate::parse(shown.certificates().next().unwrap()).unwrap();
        assert_eq!((certificate.name.as_str(), certificate.issuer.as_str()), ("broker-0", "CN=ours"));
        assert_eq!(certificate.dns_names, ["a.example.net"]);
        for key in ["ca.key", "broker-0.key"] {
            let mode = std::fs::metadata(folder.path().join(key)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{key}");
        }
        assert!(!authority.issue(&wanted("broker-0", &hosts), false).unwrap_err().message.is_empty());
        let before = std::fs::read(&file).unwrap();
        authority.issue(&wanted("broker-0", &hosts), true).unwrap();
        assert_ne!(before, std::fs::read(&file).unwrap());
        let again = Authority::create(folder.path(), "ours").unwrap_err();
        assert!(again.code == 2 && again.message.contains("tls issue"), "{again}");
    }

    #[test]
    fn names_and_hosts_that_cannot_be_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let authority = Authority::create(folder.path(), "ours").unwrap();
        for name in ["", "ca", ".hidden", "a/b", "..", "ü", &"x".repeat(65)] {
            assert_eq!(authority.issue(&wanted(name, &[]), true).unwrap_err().code, 2, "{name}");
        }
        for host in ["", "a b", "host:1", "ü"] {
            let failure = authority.issue(&wanted("b", &[host.to_owned()]), true).unwrap_err();
            assert!(failure.message.contains("not a host"), "{failure}");
        }
        let nowhere = folder.path().join("nowhere");
        let failure = Authority::open(&nowhere).issue(&wanted("b", &[]), true).unwrap_err();
        assert!(failure.message.contains("evenkeel tls init"), "{failure}");
    }
}
