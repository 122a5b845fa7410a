//! The security of one process: made from its options, shared by all its listeners and connections, kept up to date.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::{Mutex, RwLock};

use crate::accept::{Acceptor, Audience};
use crate::dial::Dialer;
use crate::files::{Stamp, read_public};
use crate::guard::Guard;
use crate::metric_definitions;
use crate::options::{Checked, OptionsError, TlsFiles, refuse};
use crate::roles::ClusterRole;
use crate::tls::Material;
use crate::tokens::Tokens;

/// How often the files are looked at: a few system calls.
const LOOK_INTERVAL_MS: u64 = 1_000;

/// What the files of TLS gave when they were read last with success.
pub(crate) struct Current {
    material: RwLock<Arc<Material>>,
}

impl Current {
    pub(crate) fn material(&self) -> Arc<Material> {
        Arc::clone(&self.material.read())
    }
}

/// Made once, then cloned to whoever listens or connects.
#[derive(Clone, Default)]
pub struct Security {
    tls: Option<Arc<Current>>,
    guard: Option<Arc<Guard>>,
    peer_guard: Option<Arc<Guard>>,
    options: Checked,
    role: Option<ClusterRole>,
    seen: Arc<Mutex<Seen>>,
}

/// The files as they were when they were read last, and what was told about them.
#[derive(Default)]
struct Seen {
    tls: Stamp,
    tokens: Stamp,
    told: Option<String>,
}

impl Security {
    /// No TLS and no authentication.
    #[must_use]
    pub fn off() -> Self {
        Self::default()
    }

    /// Reads the files of a process of this role.
    ///
    /// # Errors
    /// When one cannot be used.
    pub fn load(options: Checked, role: ClusterRole) -> Result<Self, OptionsError> {
        let mut seen = Seen::default();
        let tls = match &options.tls {
            None => None,
            Some(files) => {
                seen.tls = Stamp::of(files.paths());
                let material = Material::load(files, role, options.client_certificates)?;
                Some(Arc::new(Current { material: RwLock::new(Arc::new(material)) }))
            }
        };
        let tokens = match &options.tokens {
            None => None,
            Some(path) => {
                seen.tokens = Stamp::of([path.as_path()]);
                Some(read_tokens(path)?)
            }
        };
        let guard = (tokens.is_some() || options.client_certificates).then(|| {
            Arc::new(Guard::new(tokens, options.client_certificates, options.certificate_roles.clone()))
        });
        let peer_guard = tls.is_some().then(Arc::default);
        Ok(Self { tls, guard, peer_guard, options, role: Some(role), seen: Arc::new(Mutex::new(seen)) })
    }

    fn acceptor(&self, audience: Audience) -> Acceptor {
        Acceptor::new(self.tls.clone().map(|current| (current, audience)))
    }

    /// For a listener of gRPC clients.
    #[must_use]
    pub fn grpc(&self) -> Acceptor {
        self.acceptor(Audience::GrpcClients)
    }

    /// For a listener of HTTP clients.
    #[must_use]
    pub fn http(&self) -> Acceptor {
        self.acceptor(Audience::HttpClients)
    }

    /// For a listener of brokers and gateways only.
    #[must_use]
    pub fn peers(&self) -> Acceptor {
        self.acceptor(Audience::Peers)
    }

    /// For connections to brokers.
    #[must_use]
    pub fn dialer(&self) -> Dialer {
        self.tls.clone().map_or_else(Dialer::plain, Dialer::to_brokers)
    }

    /// Who may call, `None` when everybody may.
    #[must_use]
    pub fn guard(&self) -> Option<Arc<Guard>> {
        self.guard.clone()
    }

    /// Tells brokers from gateways where only peers come in, `None` without TLS.
    #[must_use]
    pub fn peer_guard(&self) -> Option<Arc<Guard>> {
        self.peer_guard.clone()
    }

    /// Whether connections are encrypted.
    #[must_use]
    pub fn has_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// When this process's own certificate expires, `None` without TLS.
    #[must_use]
    pub fn certificate_expires_at(&self) -> Option<SystemTime> {
        Some(self.tls.as_ref()?.material().own.not_after)
    }

    /// Reads files again when they have changed, for ever. The recorder of metrics must be installed.
    pub async fn keep_fresh(self) {
        metric_definitions::describe();
        self.show_expiry();
        if self.tls.is_none() && self.options.tokens.is_none() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(Duration::from_millis(LOOK_INTERVAL_MS)).await;
            let this = self.clone();
            // A disk that hangs must not hold a worker thread.
            if tokio::task::spawn_blocking(move || this.refresh()).await.is_err() {
                tracing::error!("looking at certificate files failed; they are looked at again");
            }
        }
    }

    fn show_expiry(&self) {
        if let Some(current) = &self.tls {
            let material = current.material();
            metric_definitions::set_certificate_expiry("own", material.own.not_after);
            metric_definitions::set_certificate_expiry("authority", material.authority_not_after);
        }
    }

    /// Reads what has changed. A file that cannot be used changes nothing, and is tried again at the next look, since it
    /// may be one of several that are being replaced.
    fn refresh(&self) {
        let mut seen = self.seen.lock();
        let mut problem = None;
        if let (Some(current), Some(files), Some(role)) = (&self.tls, &self.options.tls, self.role) {
            let stamp = Stamp::of(files.paths());
            if stamp != seen.tls {
                match self.reload_tls(current, files, role) {
                    Ok(()) => seen.tls = stamp,
                    Err(error) => problem = Some(error),
                }
            }
        }
        if let (Some(path), Some(guard)) = (&self.options.tokens, &self.guard) {
            let stamp = Stamp::of([path.as_path()]);
            if stamp != seen.tokens {
                match read_tokens(path) {
                    Ok(tokens) => {
                        tracing::info!(file = %path.display(), tokens = tokens.len(), "tokens read again");
                        metric_definitions::reloads("tokens", "loaded").increment(1);
                        guard.replace_tokens(tokens);
                        seen.tokens = stamp;
                    }
                    Err(error) => {
                        metric_definitions::reloads("tokens", "failed").increment(1);
                        problem = Some(error);
                    }
                }
            }
        }
        let told = problem.map(|error| error.to_string());
        // Once per kind of trouble, not once per look.
        if let Some(problem) = told.as_ref().filter(|problem| seen.told.as_ref() != Some(problem)) {
            tracing::warn!("a changed file is not used, what was read before stays in force: {problem}");
        }
        seen.told = told;
    }

    fn reload_tls(&self, current: &Current, files: &TlsFiles, role: ClusterRole) -> Result<(), OptionsError> {
        let material = Material::load(files, role, self.options.client_certificates)
            .inspect_err(|_| metric_definitions::reloads("certificate", "failed").increment(1))?;
        tracing::info!(file = %files.certificate.display(), name = material.own.name, "certificate read again");
        metric_definitions::reloads("certificate", "loaded").increment(1);
        *current.material.write() = Arc::new(material);
        self.show_expiry();
        Ok(())
    }
}

fn read_tokens(path: &std::path::Path) -> Result<Tokens, OptionsError> {
    const KEY: &str = "auth.tokens_file";
    let remedy = "name a readable file of tokens; `evenkeel token` makes its lines";
    let bytes = read_public(path).map_err(|error| refuse(KEY, path, error.problem, remedy))?;
    let text = String::from_utf8(bytes).map_err(|_| refuse(KEY, path, "is not a text in UTF-8", remedy))?;
    text.parse().map_err(|error| refuse(KEY, path, format!("{error}"), "correct that line"))
}

#[cfg(test)]
mod tests {
    use http::{HeaderMap, header};

    use super::*;
    use crate::guard::Need;
    use crate::options::{AuthOptions, TlsOptions, check};
    use crate::roles::Role;
    use crate::tls::tests::{authority, issue, write};
    use crate::tokens::hashed;

    #[test]
    fn files_are_read_again_when_they_change_and_bad_ones_change_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let authority = authority();
        let first = issue(&authority, "first", &["127.0.0.1"], &["gateway"]);
        let files = write(folder.path(), &first, &authority);
        let tokens = folder.path().join("tokens");
        std::fs::write(&tokens, format!("ops operate {}", hashed("0123456789abcdef"))).unwrap();
        let text = |path: &std::path::Path| path.display().to_string();
        let tls = TlsOptions {
            certificate_file: text(&files.certificate),
            key_file: text(&files.key),
            ca_file: text(&files.authority),
        };
        let auth = AuthOptions { tokens_file: text(&tokens), ..AuthOptions::default() };
        let security = Security::load(check(&tls, &auth).unwrap(), ClusterRole::Gateway).unwrap();
        let name = || security.tls.as_ref().unwrap().material().own.name.clone();
        let admits = |token: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, format!("Bearer {token}").parse().unwrap());
            security.guard().unwrap().admit(Need::Role(Role::Operate), &headers, None).is_ok()
        };
        assert!(name() == "first" && admits("0123456789abcdef"));

        // The certificate is there, its key not yet.
        let second = issue(&authority, "second", &["127.0.0.1"], &["gateway"]);
        std::fs::write(&files.certificate, &second.pem).unwrap();
        std::fs::write(&tokens, "ops operate").unwrap();
        security.refresh();
        assert!(name() == "first" && admits("0123456789abcdef"));
        assert!(security.seen.lock().told.is_some());

        std::fs::write(&files.key, &second.key).unwrap();
        std::fs::write(&tokens, format!("ops operate {}", hashed("fedcba9876543210"))).unwrap();
        security.refresh();
        assert_eq!(name(), "second");
        assert!(!admits("0123456789abcdef") && admits("fedcba9876543210"));
        assert!(security.seen.lock().told.is_none());
    }
}
