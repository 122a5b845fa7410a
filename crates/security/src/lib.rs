//! Who may talk to whom: TLS for every listener, mutual TLS inside the cluster, and who a caller is.
//!
//! [`Security`] is made once from the options of a process and shared by its listeners and connections. Its files are
//! read again when they change, so a certificate or a token is replaced without a restart; what cannot be read leaves
//! in place what was read before.
//!
//! ```text
//! listener ──► Acceptor ──► Link (bytes + Connection: source address, certificate)
//!                             │
//!                    request ─► Guard ──► Caller (name, roles) or Denied
//! Dialer ──► Link, to a server whose certificate is of the cluster's authority
//! ```
//!
//! Without TLS and without authentication nothing of this is on the way of a request: links are plain sockets, and
//! there is no guard.

mod accept;
mod caller;
mod certificate;
mod dial;
mod files;
mod grpc_guard;
mod guard;
mod inspect;
mod link;
mod metric_definitions;
mod options;
mod roles;
mod security;
mod tls;
mod tokens;

pub use accept::{AcceptError, Acceptor};
pub use caller::{Caller, Denied};
pub use certificate::{Certificate, CertificateError, role_uri};
pub use dial::{ClientTls, ClientTlsError, Dialer, TlsProblem, tls_problem};
pub use files::{UnreadableFile, read_secret};
pub use grpc_guard::{Admission, GrpcGuard};
pub use guard::{Guard, Need};
pub use inspect::Shown;
pub use link::{Connection, Link};
pub use options::{AuthOptions, Checked, OptionsError, TlsOptions, check, is_loopback};
pub use roles::{ClusterRole, Role, Roles};
pub use security::Security;
pub use tls::provider;
pub use tokens::{TOKEN_BYTES_MIN, Token, Tokens, TokensError, hashed};
