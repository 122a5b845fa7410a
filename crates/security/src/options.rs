//! What an operator can set about security, the same on brokers and gateways, and the check that refuses what cannot
//! work or would be open to everybody by mistake.
//!
//! No setting is a secret itself: keys and tokens are in files that settings name.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::roles::Roles;

/// Whose certificate is shown and whose are trusted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TlsOptions {
    /// This process's certificate and those between it and the authority, PEM.
    pub certificate_file: String,
    /// Its private key, PEM.
    pub key_file: String,
    /// Certificates of the cluster's authority, PEM.
    pub ca_file: String,
}

/// Who may call.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct AuthOptions {
    /// Names, roles and hashes of bearer tokens.
    pub tokens_file: String,
    /// Whether a certificate of the cluster's authority tells who calls.
    pub client_certificates: bool,
    /// `NAME=ROLES` for certificates that name no role themselves.
    pub certificate_roles: Vec<String>,
}

/// A setting that cannot work.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key} = {value}: {problem}; {remedy}")]
pub struct OptionsError {
    /// Dotted path of the setting.
    pub key: &'static str,
    /// What it was set to.
    pub value: String,
    /// Why that cannot work.
    pub problem: String,
    /// What to do.
    pub remedy: String,
}

pub(crate) fn refuse(
    key: &'static str,
    value: impl std::fmt::Debug,
    problem: impl Into<String>,
    remedy: impl Into<String>,
) -> OptionsError {
    OptionsError { key, value: format!("{value:?}"), problem: problem.into(), remedy: remedy.into() }
}

/// The files of TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TlsFiles {
    pub(crate) certificate: PathBuf,
    pub(crate) key: PathBuf,
    pub(crate) authority: PathBuf,
}

impl TlsFiles {
    pub(crate) fn paths(&self) -> [&Path; 3] {
        [&self.certificate, &self.key, &self.authority]
    }
}

/// Options that can work.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) tokens: Option<PathBuf>,
    pub(crate) client_certificates: bool,
    pub(crate) certificate_roles: Vec<(String, Roles)>,
}

/// Refuses what cannot work. Reads no files.
///
/// # Errors
/// The first setting that cannot work.
pub fn check(tls: &TlsOptions, auth: &AuthOptions) -> Result<Checked, OptionsError> {
    let files = check_files(tls)?;
    if auth.client_certificates && files.is_none() {
        let remedy =
            "set tls.certificate_file, tls.key_file and tls.ca_file too, or auth.tokens_file instead";
        return Err(refuse("auth.client_certificates", true, "has no effect without TLS", remedy));
    }
    if !auth.certificate_roles.is_empty() && !auth.client_certificates {
        let remedy = "set auth.client_certificates = true, or remove it";
        return Err(refuse("auth.certificate_roles", &auth.certificate_roles, "has no effect", remedy));
    }
    let roles = auth.certificate_roles.iter().map(|text| certificate_role(text)).collect::<Result<_, _>>()?;
    Ok(Checked {
        tls: files,
        tokens: (!auth.tokens_file.is_empty()).then(|| auth.tokens_file.clone().into()),
        client_certificates: auth.client_certificates,
        certificate_roles: roles,
    })
}

fn check_files(tls: &TlsOptions) -> Result<Option<TlsFiles>, OptionsError> {
    let files = [
        ("tls.certificate_file", &tls.certificate_file),
        ("tls.key_file", &tls.key_file),
        ("tls.ca_file", &tls.ca_file),
    ];
    let Some((given, _)) = files.iter().find(|(_, file)| !file.is_empty()) else { return Ok(None) };
    if let Some((missing, _)) = files.iter().find(|(_, file)| file.is_empty()) {
        let problem = format!("is missing while {given} is set");
        let remedy = "set all three, `evenkeel tls init` makes them; or none of them for no TLS";
        return Err(refuse(missing, "", problem, remedy));
    }
    Ok(Some(TlsFiles {
        certificate: (&tls.certificate_file).into(),
        key: (&tls.key_file).into(),
        authority: (&tls.ca_file).into(),
    }))
}

fn certificate_role(text: &str) -> Result<(String, Roles), OptionsError> {
    const KEY: &str = "auth.certificate_roles";
    let shape = "write NAME=ROLES, such as \"ops.example.net=operate\" or \"app=read,write\"";
    let Some((name, roles)) = text.rsplit_once('=').filter(|(name, _)| !name.trim().is_empty()) else {
        return Err(refuse(KEY, text, "is not a name and its roles", shape));
    };
    let roles = roles.parse().map_err(|error| refuse(KEY, text, format!("{error}"), shape))?;
    Ok((name.trim().to_owned(), roles))
}

/// Whether only this machine can reach a listener on this host. A name other than `localhost` may mean anything.
#[must_use]
pub fn is_loopback(host: &str) -> bool {
    let host = host.trim_matches(['[', ']']);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl Checked {
    /// Refuses listeners that others reach and that anybody could use.
    ///
    /// # Errors
    /// When the host is beyond loopback and TLS or authentication is off, unless `insecure` says that this is wanted.
    pub fn check_exposure(&self, host: &str, insecure: bool) -> Result<(), OptionsError> {
        if insecure || is_loopback(host) {
            return Ok(());
        }
        let trusted = "or, in a network where you trust everybody, network.insecure = true";
        if self.tls.is_none() {
            let problem = "would serve other machines without TLS";
            let remedy = format!(
                "set tls.certificate_file, tls.key_file and tls.ca_file (`evenkeel tls init` makes them), {trusted}"
            );
            return Err(refuse("network.host", host, problem, remedy));
        }
        if self.tokens.is_none() && !self.client_certificates {
            let problem = "would serve other machines without authentication";
            let remedy = format!("set auth.tokens_file or auth.client_certificates = true, {trusted}");
            return Err(refuse("network.host", host, problem, remedy));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tls() -> TlsOptions {
        TlsOptions { certificate_file: "c".into(), key_file: "k".into(), ca_file: "a".into() }
    }

    #[test]
    fn what_cannot_work_is_named_with_value_and_remedy() {
        type Change = fn(&mut TlsOptions, &mut AuthOptions);
        let table: [(&str, Change); 6] = [
            ("tls.key_file = \"\": is missing while tls.certificate_file is set", |t, _| t.key_file.clear()),
            ("tls.certificate_file = \"\": is missing while tls.key_file", |t, _| t.certificate_file.clear()),
            ("auth.client_certificates = true: has no effect without TLS; set tls.", |t, a| {
                *t = TlsOptions::default();
                a.client_certificates = true;
            }),
            ("auth.certificate_roles = [\"a=read\"]: has no effect; set auth.client_certificates", |_, a| {
                a.certificate_roles = vec!["a=read".into()];
            }),
            ("auth.certificate_roles = \"ops\": is not a name and its roles; write NAME=ROLES", |_, a| {
                a.client_certificates = true;
                a.certificate_roles = vec!["ops".into()];
            }),
            ("auth.certificate_roles = \"ops=root\": \"root\" is not a role; write read", |_, a| {
                a.client_certificates = true;
                a.certificate_roles = vec!["ops=root".into()];
            }),
        ];
        for (expected, change) in table {
            let (mut tls, mut auth) = (tls(), AuthOptions::default());
            change(&mut tls, &mut auth);
            let error = check(&tls, &auth).unwrap_err().to_string();
            assert!(error.starts_with(expected), "{error}");
        }
    }

    #[test]
    fn only_what_nobody_else_reaches_may_be_open() {
        let open = check(&TlsOptions::default(), &AuthOptions::default()).unwrap();
        let encrypted = check(&tls(), &AuthOptions::default()).unwrap();
        let tokens = AuthOptions { tokens_file: "t".into(), ..AuthOptions::default() };
        let certificates = AuthOptions { client_certificates: true, ..AuthOptions::default() };
        for host in ["127.0.0.1", "127.8.8.8", "::1", "[::1]", "localhost"] {
            assert_eq!(open.check_exposure(host, false), Ok(()), "{host}");
        }
        for host in ["0.0.0.0", "::", "[::]", "10.0.0.1", "node-1", "localhost.example.net"] {
            let said = |checked: &Checked| checked.check_exposure(host, false).unwrap_err().to_string();
            assert!(said(&open).contains("without TLS; set tls.certificate_file"), "{}", said(&open));
            assert!(said(&encrypted).contains("without authentication; set auth.tokens_file"));
            assert!(said(&open).starts_with(&format!("network.host = {host:?}: ")));
            assert!(said(&check(&TlsOptions::default(), &tokens).unwrap()).contains("without TLS"));
            assert_eq!(open.check_exposure(host, true), Ok(()));
            for auth in [&tokens, &certificates] {
                assert_eq!(check(&tls(), auth).unwrap().check_exposure(host, false), Ok(()));
            }
        }
    }
}
