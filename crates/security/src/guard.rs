//! Decides whether a request may be carried out: who calls, and whether they may do this.

use std::sync::Arc;
use std::time::SystemTime;

use http::{HeaderMap, HeaderValue, header};
use parking_lot::RwLock;
use subtle::ConstantTimeEq;

use crate::caller::{Caller, Denied};
use crate::link::{Connection, KnownToken};
use crate::metric_definitions;
use crate::roles::{ClusterRole, Role, Roles};
use crate::tokens::Tokens;

const SCHEME: &[u8] = b"bearer ";

/// What a request takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// Anybody may.
    Nothing,
    /// A caller with this role.
    Role(Role),
    /// A broker of the cluster, by its certificate.
    Broker,
}

/// Knows who may call.
#[derive(Debug, Default)]
pub struct Guard {
    /// `None` when tokens are not taken.
    tokens: Option<RwLock<Arc<Tokens>>>,
    client_certificates: bool,
    certificate_roles: Vec<(String, Roles)>,
}

impl Guard {
    pub(crate) fn new(
        tokens: Option<Tokens>,
        client_certificates: bool,
        certificate_roles: Vec<(String, Roles)>,
    ) -> Self {
        let tokens = tokens.map(|tokens| RwLock::new(Arc::new(tokens)));
        Self { tokens, client_certificates, certificate_roles }
    }

    /// Takes these tokens from now on, and no others.
    pub(crate) fn replace_tokens(&self, tokens: Tokens) {
        if let Some(current) = &self.tokens {
            *current.write() = Arc::new(tokens);
        }
    }

    /// Lets a request pass, or tells why not. Nobody is looked for where nothing is needed.
    ///
    /// # Errors
    /// When the caller is not known or may not do this; it has been counted.
    pub fn admit(
        &self,
        need: Need,
        headers: &HeaderMap,
        connection: Option<&Connection>,
    ) -> Result<Option<Arc<Caller>>, Denied> {
        let decided = match need {
            Need::Nothing => Ok(None),
            Need::Broker => broker(connection).map(|()| None),
            Need::Role(role) => self.caller(headers, connection).and_then(|caller| allowed(caller, role)),
        };
        if let Err(denied) = &decided {
            metric_definitions::requests_denied(denied.reason()).increment(1);
        }
        decided
    }

    fn caller(&self, headers: &HeaderMap, connection: Option<&Connection>) -> Result<Arc<Caller>, Denied> {
        if let (Some(tokens), Some(header)) = (&self.tokens, headers.get(header::AUTHORIZATION)) {
            let tokens = Arc::clone(&tokens.read());
            return bearer(&tokens, header, connection);
        }
        let certificate = connection.and_then(|connection| connection.certificate.as_ref());
        let Some(certificate) = certificate.filter(|_| self.client_certificates) else {
            // An authorization that is not looked at is none.
            return Err(Denied::NoCredentials);
        };
        // A connection may outlive the certificate that it was opened with.
        if certificate.not_after < SystemTime::now() {
            return Err(Denied::CertificateExpired { name: certificate.name.clone() });
        }
        let given = self.certificate_roles.iter().filter(|(name, _)| certificate.is_for(name));
        let roles = given.fold(certificate.roles(), |roles, (_, more)| roles.and(*more));
        Ok(Arc::new(Caller::new(certificate.name.clone(), roles)))
    }
}

/// Whose token it is; a connection's last token is not looked up again.
fn bearer(
    tokens: &Arc<Tokens>,
    header: &HeaderValue,
    connection: Option<&Connection>,
) -> Result<Arc<Caller>, Denied> {
    if let Some(known) = connection.and_then(|connection| {
        let known = connection.known.lock();
        let known = known.as_ref().filter(|known| Arc::ptr_eq(&known.among, tokens))?;
        bool::from(known.header.as_bytes().ct_eq(header.as_bytes())).then(|| Arc::clone(&known.caller))
    }) {
        return Ok(known);
    }
    let bytes = header.as_bytes();
    let token = bytes
        .split_at_checked(SCHEME.len())
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case(SCHEME))
        .map(|(_, token)| token.trim_ascii());
    let found = token.and_then(|token| tokens.find(token)).ok_or(Denied::UnknownToken)?;
    if let Some(connection) = connection {
        *connection.known.lock() =
            Some(KnownToken { header: header.clone(), among: Arc::clone(tokens), caller: Arc::clone(found) });
    }
    Ok(Arc::clone(found))
}

fn allowed(caller: Arc<Caller>, role: Role) -> Result<Option<Arc<Caller>>, Denied> {
    if caller.roles.include(role) {
        return Ok(Some(caller));
    }
    Err(Denied::Forbidden { name: caller.name.clone(), has: caller.roles, needs: role })
}

fn broker(connection: Option<&Connection>) -> Result<(), Denied> {
    let certificate = connection.and_then(|connection| connection.certificate.as_ref());
    match certificate.map(|certificate| (certificate.cluster_role(), &certificate.name)) {
        Some((Some(ClusterRole::Broker), _)) => Ok(()),
        Some((_, name)) => Err(Denied::NotABroker { name: name.clone() }),
        None => Err(Denied::NoCredentials),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::certificate::Certificate;
    use crate::tls::tests::{authority, issue};
    use crate::tokens::hashed;

    fn tokens() -> Tokens {
        let line =
            |name: &str, roles: &str| format!("{name} {roles} {}\n", hashed(&format!("token-of-{name}")));
        (line("ops", "operate") + &line("app", "write") + &line("look", "read")).parse().unwrap()
    }

    fn headers(authorization: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(text) = authorization {
            headers.insert(header::AUTHORIZATION, text.parse().unwrap());
        }
        headers
    }

    #[test]
    fn tokens_give_their_roles_and_nothing_else() {
        let guard = Guard::new(Some(tokens()), false, Vec::new());
        let connection = Connection::new(None, None);
        let reason = |authorization, need| {
            let decided = guard.admit(need, &headers(authorization), Some(&connection));
            decided.map(|caller| caller.map(|caller| caller.name.clone())).map_err(|denied| denied.reason())
        };
        let role = Need::Role;
        let table = [
            (None, Need::Nothing, Ok(None)),
            (Some("Bearer wrong"), Need::Nothing, Ok(None)),
            (None, role(Role::Read), Err("NO_CREDENTIALS")),
            (Some("Bearer token-of-ops"), role(Role::Operate), Ok(Some("ops"))),
            (Some("bearer  token-of-ops "), role(Role::Read), Ok(Some("ops"))),
            (Some("Bearer token-of-ops"), role(Role::Write), Err("FORBIDDEN")),
            (Some("Bearer token-of-look"), role(Role::Read), Ok(Some("look"))),
            (Some("Bearer token-of-look"), role(Role::Write), Err("FORBIDDEN")),
            (Some("Bearer token-of-look"), role(Role::Operate), Err("FORBIDDEN")),
            (Some("Bearer token-of-app"), role(Role::Write), Ok(Some("app"))),
            (Some("Bearer token-of-nobody"), role(Role::Read), Err("UNKNOWN_TOKEN")),
            (Some("Basic b3BzOng="), role(Role::Read), Err("UNKNOWN_TOKEN")),
            (Some("Bearer"), role(Role::Read), Err("UNKNOWN_TOKEN")),
            (Some("Bearer token-of-ops"), Need::Broker, Err("NO_CREDENTIALS")),
        ];
        for (authorization, need, expected) in table {
            let expected = expected.map(|name: Option<&str>| name.map(str::to_owned));
            assert_eq!(reason(authorization, need), expected, "{authorization:?} {need:?}");
        }
    }

    #[test]
    fn a_token_that_is_removed_is_refused_on_the_same_connection() {
        let guard = Guard::new(Some(tokens()), false, Vec::new());
        let connection = Connection::new(None, None);
        let ops = headers(Some("Bearer token-of-ops"));
        for _ in 0..2 {
            guard.admit(Need::Role(Role::Operate), &ops, Some(&connection)).unwrap();
        }
        assert!(!format!("{connection:?}").contains("token-of-ops"), "a token is never shown");
        guard.replace_tokens(Tokens::default());
        let denied = guard.admit(Need::Role(Role::Operate), &ops, Some(&connection)).unwrap_err();
        assert_eq!(denied, Denied::UnknownToken);
    }

    #[test]
    fn certificates_give_the_roles_that_they_name_or_that_the_options_give_them() {
        let authority = authority();
        let shown = |name: &str, roles: &[&str]| {
            let certificate =
                Certificate::parse(&issue(&authority, name, &["a.example.net"], roles).der).unwrap();
            Connection::new(None, Some(certificate))
        };
        let guard = Guard::new(None, true, vec![("web".into(), "write".parse().unwrap())]);
        let decide = |connection: &Connection, need| {
            guard.admit(need, &headers(None), Some(connection)).map(|_| ()).map_err(|denied| denied.reason())
        };
        let (operate, write) = (Need::Role(Role::Operate), Need::Role(Role::Write));
        assert_eq!(decide(&shown("ops", &["operate"]), operate), Ok(()));
        assert_eq!(decide(&shown("ops", &["operate"]), write), Err("FORBIDDEN"));
        assert_eq!(decide(&shown("web", &[]), write), Ok(()));
        assert_eq!(decide(&shown("webb", &[]), write), Err("FORBIDDEN"));
        assert_eq!(decide(&shown("b", &["broker"]), Need::Broker), Ok(()));
        assert_eq!(decide(&shown("g", &["gateway"]), Need::Broker), Err("NOT_A_BROKER"));
        assert_eq!(decide(&shown("g", &["gateway"]), Need::Role(Role::Read)), Err("FORBIDDEN"));

        let mut old = shown("ops", &["operate"]);
        if let Some(certificate) = &mut old.certificate {
            certificate.not_after = SystemTime::now() - Duration::from_secs(1);
        }
        assert_eq!(decide(&old, operate), Err("CERTIFICATE_EXPIRED"));
        let tokens_only = Guard::new(Some(tokens()), false, Vec::new());
        let denied = tokens_only.admit(operate, &headers(None), Some(&shown("ops", &["operate"])));
        assert_eq!(denied.unwrap_err(), Denied::NoCredentials);
    }
}
