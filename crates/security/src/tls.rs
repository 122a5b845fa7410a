//! Certificates and keys, from files to what rustls works with.
//!
//! Sessions are never resumed: every connection proves anew who it is, so a certificate that is replaced or has expired
//! counts from the next connection on.

use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use rustls::crypto::CryptoProvider;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::certificate::Certificate;
use crate::files::{read_public, read_secret};
use crate::options::{OptionsError, TlsFiles, refuse};
use crate::roles::ClusterRole;

pub(crate) const ALPN_HTTP2: &[u8] = b"h2";
pub(crate) const ALPN_HTTP1: &[u8] = b"http/1.1";

/// The cryptography of all connections: ring.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}

/// Everything that follows from the files of TLS, read at one moment.
pub(crate) struct Material {
    /// For gRPC clients of a gateway.
    pub(crate) grpc: Arc<ServerConfig>,
    /// For HTTP clients.
    pub(crate) http: Arc<ServerConfig>,
    /// For processes of the cluster: no connection without a certificate.
    pub(crate) peers: Arc<ServerConfig>,
    /// For connections to brokers.
    pub(crate) dial: Arc<ClientConfig>,
    pub(crate) own: Certificate,
    /// When the first of the authority's certificates expires.
    pub(crate) authority_not_after: SystemTime,
}

/// A certificate with those between it and its authority.
pub(crate) type Chain = Vec<CertificateDer<'static>>;

pub(crate) fn read_chain(key: &'static str, path: &Path) -> Result<Chain, OptionsError> {
    let remedy = "name a readable PEM file with certificates";
    let bytes = read_public(path).map_err(|error| refuse(key, path, error.problem, remedy))?;
    let chain: Result<Chain, _> = CertificateDer::pem_slice_iter(&bytes).collect();
    match chain {
        Ok(chain) if !chain.is_empty() => Ok(chain),
        Ok(_) => Err(refuse(key, path, "holds no certificate", remedy)),
        Err(error) => Err(refuse(key, path, format!("is not PEM: {error}"), remedy)),
    }
}

pub(crate) fn read_key(key: &'static str, path: &Path) -> Result<PrivateKeyDer<'static>, OptionsError> {
    let remedy = "name a PEM file with one private key, readable by this process and not by everybody";
    let bytes = read_secret(path).map_err(|error| refuse(key, path, error.problem, remedy))?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|_| refuse(key, path, "holds no private key", remedy))
}

pub(crate) fn read_authority(
    key: &'static str,
    path: &Path,
) -> Result<(Arc<RootCertStore>, Chain), OptionsError> {
    let certificates = read_chain(key, path)?;
    let mut roots = RootCertStore::empty();
    for certificate in &certificates {
        roots.add(certificate.clone()).map_err(|error| {
            refuse(
                key,
                path,
                format!("holds what cannot be trusted: {error}"),
                "name the authority's certificate",
            )
        })?;
    }
    Ok((Arc::new(roots), certificates))
}

/// A client's configuration that trusts these roots; with a certificate of its own, or without.
pub(crate) fn client_config(
    roots: Arc<RootCertStore>,
    own: Option<(Chain, PrivateKeyDer<'static>)>,
    alpn: &[u8],
) -> Result<ClientConfig, rustls::Error> {
    let trusting = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots);
    let mut config = match own {
        Some((chain, key)) => trusting.with_client_auth_cert(chain, key)?,
        None => trusting.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = rustls::client::Resumption::disabled();
    Ok(config)
}

fn server_config(
    verifier: Option<Arc<dyn ClientCertVerifier>>,
    chain: &Chain,
    key: &PrivateKeyDer<'static>,
    alpn: &[u8],
) -> Result<Arc<ServerConfig>, rustls::Error> {
    let versions = ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions()?;
    let verified = match verifier {
        Some(verifier) => versions.with_client_cert_verifier(verifier),
        None => versions.with_no_client_auth(),
    };
    let mut config = verified.with_single_cert(chain.clone(), key.clone_key())?;
    config.alpn_protocols = vec![alpn.to_vec()];
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(Arc::new(config))
}

impl Material {
    /// Reads all files and checks that they fit together, and that peers will accept the certificate.
    pub(crate) fn load(
        files: &TlsFiles,
        role: ClusterRole,
        client_certificates: bool,
    ) -> Result<Self, OptionsError> {
        let chain = read_chain("tls.certificate_file", &files.certificate)?;
        let key = read_key("tls.key_file", &files.key)?;
        let (roots, authority) = read_authority("tls.ca_file", &files.authority)?;

        let bad_certificate = |problem: String, remedy: String| {
            refuse("tls.certificate_file", &files.certificate, problem, remedy)
        };
        let own = Certificate::parse(&chain[0])
            .map_err(|error| bad_certificate(error.to_string(), "issue it anew".into()))?;
        let verifier = |optional: bool| {
            let builder = WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), provider());
            let builder = if optional { builder.allow_unauthenticated() } else { builder };
            builder.build().map_err(|error| {
                let remedy = "name the authority's certificate";
                refuse("tls.ca_file", &files.authority, error.to_string(), remedy)
            })
        };
        let peers_verifier = verifier(false)?;
        peers_verifier.verify_client_cert(&chain[0], &chain[1..], UnixTime::now()).map_err(|error| {
            let remedy = format!(
                "issue one with the authority of tls.ca_file, valid now, for servers and clients: `evenkeel tls issue`; \
                 {} tells what it is",
                format_args!("`evenkeel tls inspect {}`", files.certificate.display())
            );
            bad_certificate(format!("no peer would accept it ({error})"), remedy)
        })?;
        let fits = own.cluster_role().is_some_and(|named| named == role || named == ClusterRole::Broker);
        if !fits {
            let (name, uri) = (role.name(), crate::role_uri(role.name()));
            let problem = format!("does not say that it is for a {name}");
            let remedy = format!(
                "issue one with `evenkeel tls issue --role {name}`, that is with the alternative name {uri}"
            );
            return Err(bad_certificate(problem, remedy));
        }

        let clients_verifier = match client_certificates {
            true => Some(verifier(true)?),
            false => None,
        };
        let unfit = |error: rustls::Error| {
            let remedy = "set tls.certificate_file and tls.key_file to files that belong together";
            refuse("tls.key_file", &files.key, format!("does not fit the certificate ({error})"), remedy)
        };
        let expiries = authority.iter().filter_map(|der| Some(Certificate::parse(der).ok()?.not_after));
        Ok(Self {
            grpc: server_config(clients_verifier.clone(), &chain, &key, ALPN_HTTP2).map_err(unfit)?,
            http: server_config(clients_verifier, &chain, &key, ALPN_HTTP1).map_err(unfit)?,
            peers: server_config(Some(peers_verifier), &chain, &key, ALPN_HTTP2).map_err(unfit)?,
            dial: Arc::new(client_config(roots, Some((chain, key)), ALPN_HTTP2).map_err(unfit)?),
            authority_not_after: expiries.min().unwrap_or(own.not_after),
            own,
        })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use rcgen::{
        BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair,
        SanType,
    };

    use super::*;

    pub(crate) type Authority = CertifiedIssuer<'static, KeyPair>;

    pub(crate) struct Issued {
        pub(crate) der: Vec<u8>,
        pub(crate) pem: String,
        pub(crate) key: String,
    }

    pub(crate) fn authority() -> Authority {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, "test authority");
        CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
    }

    pub(crate) fn params(name: &str, hosts: &[&str], roles: &[&str]) -> CertificateParams {
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        params.distinguished_name = rcgen::DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        let uris = roles.iter().map(|role| SanType::URI(crate::role_uri(role).try_into().unwrap()));
        params.subject_alt_names.extend(uris);
        params
    }

    pub(crate) fn sign(authority: &Authority, params: &CertificateParams) -> Issued {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, authority).unwrap();
        Issued { der: certificate.der().to_vec(), pem: certificate.pem(), key: key.serialize_pem() }
    }

    pub(crate) fn issue(authority: &Authority, name: &str, hosts: &[&str], roles: &[&str]) -> Issued {
        sign(authority, &params(name, hosts, roles))
    }

    /// Writes the three files of TLS.
    pub(crate) fn write(folder: &Path, issued: &Issued, authority: &Authority) -> TlsFiles {
        let file = |name: &str, text: &str| -> PathBuf {
            let path = folder.join(name);
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
            path
        };
        TlsFiles {
            certificate: file("own.crt", &issued.pem),
            key: file("own.key", &issued.key),
            authority: file("ca.crt", &authority.pem()),
        }
    }

    fn problem(files: &TlsFiles, role: ClusterRole) -> String {
        Material::load(files, role, true).map(|_| ()).unwrap_err().to_string()
    }

    #[test]
    fn files_that_do_not_fit_together_are_named_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let (ours, theirs) = (authority(), authority());
        let broker = issue(&ours, "broker-0", &["127.0.0.1"], &["broker"]);
        let files = write(folder.path(), &broker, &ours);
        let material = Material::load(&files, ClusterRole::Broker, true).map_err(|e| e.to_string()).unwrap();
        assert_eq!(material.own.name, "broker-0");
        assert!(material.authority_not_after > SystemTime::now());
        // A broker's certificate does for a gateway, but not the other way round.
        assert!(Material::load(&files, ClusterRole::Gateway, false).is_ok());

        let write = |issued: &Issued, authority: &Authority| write(folder.path(), issued, authority);
        let gateway = issue(&ours, "gateway", &["127.0.0.1"], &["gateway"]);
        let said = problem(&write(&gateway, &ours), ClusterRole::Broker);
        assert!(
            said.contains("not say that it is for a broker") && said.contains("tls issue --role broker"),
            "{said}"
        );

        let said = problem(&write(&broker, &theirs), ClusterRole::Broker);
        assert!(
            said.starts_with("tls.certificate_file = ") && said.contains("no peer would accept it"),
            "{said}"
        );

        let mut expired = params("broker-0", &["127.0.0.1"], &["broker"]);
        expired.not_before = rcgen::date_time_ymd(2000, 1, 1);
        expired.not_after = rcgen::date_time_ymd(2001, 1, 1);
        let said = problem(&write(&sign(&ours, &expired), &ours), ClusterRole::Broker);
        assert!(said.contains("xpired") && said.contains("evenkeel tls issue"), "{said}");

        let other_key = Issued { key: gateway.key, ..issue(&ours, "broker-0", &[], &["broker"]) };
        let said = problem(&write(&other_key, &ours), ClusterRole::Broker);
        assert!(said.starts_with("tls.key_file = ") && said.contains("does not fit"), "{said}");

        let files = write(&broker, &ours);
        std::fs::write(&files.key, "nonsense that is secret").unwrap();
        let said = problem(&files, ClusterRole::Broker);
        assert!(said.contains("holds no private key") && !said.contains("nonsense"), "{said}");
        std::fs::write(&files.authority, "").unwrap();
        let files = write(&broker, &ours);
        std::fs::set_permissions(&files.key, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(problem(&files, ClusterRole::Broker).contains("chmod 600"));
        std::fs::remove_file(&files.certificate).unwrap();
        assert!(problem(&files, ClusterRole::Broker).contains("No such file"));
    }
}
