//! The dialling side: plain or TLS, and what a failed handshake means in words.

use std::error::Error;
use std::future::Future;
use std::io;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use rustls::{AlertDescription, CertificateError as Rejected, ClientConfig, InvalidMessage};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, TlsStream};
use tonic::transport::{Channel, Endpoint};
use tower::Service;

use crate::link::{Link, Refusal};
use crate::options::OptionsError;
use crate::roles::ClusterRole;
use crate::security::Current;
use crate::tls::{ALPN_HTTP1, ALPN_HTTP2, client_config, read_authority, read_chain, read_key};

/// Opens connections. Cheap to clone.
#[derive(Clone)]
pub struct Dialer(Tls);

#[derive(Clone)]
enum Tls {
    Off,
    /// With the cluster's files as they are now, to brokers only.
    Cluster(Arc<Current>),
    Client(Arc<ClientConfig>, Arc<Refusal>),
}

impl Default for Dialer {
    fn default() -> Self {
        Self::plain()
    }
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Dialer").field(&self.scheme()).finish()
    }
}

impl Dialer {
    /// Without TLS.
    #[must_use]
    pub fn plain() -> Self {
        Self(Tls::Off)
    }

    pub(crate) fn to_brokers(current: Arc<Current>) -> Self {
        Self(Tls::Cluster(current))
    }

    /// `https` or `http`.
    #[must_use]
    pub fn scheme(&self) -> &'static str {
        if matches!(self.0, Tls::Off) { "http" } else { "https" }
    }

    /// A channel that connects when it is used.
    #[must_use]
    pub fn channel(&self, endpoint: &Endpoint) -> Channel {
        match self.0 {
            Tls::Off => endpoint.connect_lazy(),
            _ => endpoint.connect_with_connector_lazy(self.clone()),
        }
    }

    /// A channel that is connected.
    ///
    /// # Errors
    /// When nobody answers, or TLS cannot be agreed on: [`tls_problem`] tells which.
    pub async fn connected(&self, endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
        match self.0 {
            Tls::Off => endpoint.connect().await,
            _ => endpoint.connect_with_connector(self.clone()).await,
        }
    }

    /// Why the last connection of a client was not let in, when a certificate was at fault. A call over it only sees
    /// that the connection ended.
    #[must_use]
    pub fn refusal(&self) -> Option<TlsProblem> {
        match &self.0 {
            Tls::Client(_, refusal) => refusal.lock().clone(),
            Tls::Off | Tls::Cluster(_) => None,
        }
    }

    async fn dial(self, uri: Uri) -> io::Result<Link> {
        let host = uri.host().unwrap_or_default().trim_matches(['[', ']']).to_owned();
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("https") { 443 } else { 80 });
        let stream = TcpStream::connect((host.as_str(), port)).await?;
        stream.set_nodelay(true)?;
        let source = stream.peer_addr().ok();
        let (config, refusal) = match self.0 {
            Tls::Off => return Ok(Link::plain(stream, source)),
            Tls::Client(..) if uri.scheme_str() == Some("http") => return Ok(Link::plain(stream, source)),
            Tls::Client(config, refusal) => (config, Some(refusal)),
            Tls::Cluster(current) => (Arc::clone(&current.material().dial), None),
        };
        let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
        let stream = TlsConnector::from(config).connect(name, stream).await?;
        let link = Link::tls(TlsStream::Client(stream), source);
        if let Some(refusal) = refusal {
            return Ok(link.witnessed_by(refusal));
        }
        let certificate = link.connection().certificate.as_ref();
        if certificate.and_then(|shown| shown.cluster_role()) != Some(ClusterRole::Broker) {
            return Err(io::Error::other(NotABroker(format!("{host}:{port}"))));
        }
        Ok(link)
    }
}

/// A server of the cluster's authority that must not be taken for a broker.
#[derive(Debug, thiserror::Error)]
#[error(
    "the certificate of {0} does not name the role broker; issue it with `evenkeel tls issue --role broker`"
)]
struct NotABroker(String);

impl Service<Uri> for Dialer {
    type Response = TokioIo<Link>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialer = self.clone();
        Box::pin(async move { dialer.dial(uri).await.map(TokioIo::new) })
    }
}

/// Why a client's TLS files cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(transparent)]
pub struct ClientTlsError(#[from] OptionsError);

/// The TLS of a client: whom it trusts, and its own certificate if it has one.
#[derive(Clone)]
pub struct ClientTls {
    config: ClientConfig,
}

impl std::fmt::Debug for ClientTls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("ClientTls")
    }
}

impl ClientTls {
    /// Reads PEM files: authorities to trust, and a certificate with its key.
    ///
    /// # Errors
    /// When one cannot be read, or the key does not fit.
    pub fn load(authority: &Path, own: Option<(&Path, &Path)>) -> Result<Self, ClientTlsError> {
        let (roots, _) = read_authority("--ca", authority)?;
        let own_files = match own {
            Some((certificate, key)) => {
                Some((read_chain("--cert", certificate)?, read_key("--cert-key", key)?))
            }
            None => None,
        };
        let config = client_config(roots, own_files, ALPN_HTTP2).map_err(|error| {
            let shown = own.map_or(authority, |(_, key)| key);
            let remedy = "give --cert and --cert-key files that belong together";
            crate::options::refuse(
                "--cert-key",
                shown,
                format!("does not fit the certificate ({error})"),
                remedy,
            )
        })?;
        Ok(Self { config })
    }

    /// Without a certificate of its own, for a setting.
    ///
    /// # Errors
    /// When the file has no certificates; `key` names the setting.
    pub fn trusting(key: &'static str, authority: &Path) -> Result<Self, ClientTlsError> {
        let (roots, _) = read_authority(key, authority)?;
        let config = client_config(roots, None, ALPN_HTTP1).map_err(|error| {
            let remedy = "name a PEM file with certificates of authorities";
            crate::options::refuse(key, authority, format!("cannot be used ({error})"), remedy)
        })?;
        Ok(Self { config })
    }

    /// For gRPC.
    #[must_use]
    pub fn grpc(&self) -> Dialer {
        Dialer(Tls::Client(Arc::new(self.config.clone()), Arc::default()))
    }

    /// For HTTP/1.
    #[must_use]
    pub fn http(&self) -> Dialer {
        let mut config = self.config.clone();
        config.alpn_protocols = vec![ALPN_HTTP1.to_vec()];
        Dialer(Tls::Client(Arc::new(config), Arc::default()))
    }
}

/// What a TLS error means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsProblem {
    /// In words, with the remedy.
    pub sentence: String,
    /// Whether a certificate is at fault, and not the way to the other end.
    pub is_about_trust: bool,
}

/// What went wrong with TLS, when an error or one of its causes tells.
#[must_use]
pub fn tls_problem(error: &(dyn Error + 'static)) -> Option<TlsProblem> {
    let mut next = Some(error);
    while let Some(cause) = next {
        if let Some(found) = cause.downcast_ref::<rustls::Error>() {
            return Some(in_words(found));
        }
        if let Some(found) = cause.downcast_ref::<NotABroker>() {
            return Some(TlsProblem { sentence: found.to_string(), is_about_trust: true });
        }
        // An io::Error does not show what it wraps among its sources.
        let wrapped = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        next = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => cause.source(),
        };
    }
    None
}

pub(crate) fn classify(error: &io::Error) -> Option<TlsProblem> {
    tls_problem(error)
}

pub(crate) fn in_words(error: &rustls::Error) -> TlsProblem {
    use rustls::Error as E;
    let trust = |sentence: &str| TlsProblem { sentence: sentence.to_owned(), is_about_trust: true };
    match error {
        E::AlertReceived(alert) => match alert {
            AlertDescription::CertificateExpired => trust(
                "the other end says that the certificate shown to it has expired; issue a new one (`evenkeel tls issue`)",
            ),
            AlertDescription::UnknownCA => trust(
                "the other end does not trust the authority of the certificate shown to it; check whose it is",
            ),
            AlertDescription::CertificateRequired => {
                trust("the other end asks for a certificate; give one, commands take --cert and --cert-key")
            }
            AlertDescription::BadCertificate
            | AlertDescription::CertificateUnknown
            | AlertDescription::CertificateRevoked
            | AlertDescription::UnsupportedCertificate
            | AlertDescription::DecryptError
            | AlertDescription::AccessDenied => trust(
                "the other end does not accept the certificate shown to it; look at it with `evenkeel tls inspect`",
            ),
            other => TlsProblem {
                sentence: format!("the other end ended the TLS handshake ({other:?})"),
                is_about_trust: false,
            },
        },
        E::InvalidCertificate(rejected) => match rejected {
            Rejected::Expired | Rejected::ExpiredContext { .. } => trust(
                "the certificate of the other end has expired; issue a new one for it (`evenkeel tls issue`)",
            ),
            Rejected::NotValidYet | Rejected::NotValidYetContext { .. } => {
                trust("the certificate of the other end is not valid yet; check the clocks")
            }
            Rejected::UnknownIssuer | Rejected::BadSignature => trust(
                "the certificate of the other end is not of an authority that is trusted here; check the authority's \
                 file (--ca, tls.ca_file)",
            ),
            Rejected::NotValidForName | Rejected::NotValidForNameContext { .. } => trust(
                "the certificate of the other end is for other names than the one that was dialled; dial one of its \
                 names or issue it for this one",
            ),
            other => trust(&format!("the certificate of the other end is not accepted ({other})")),
        },
        E::NoCertificatesPresented => trust("no certificate was presented, and this port asks for one"),
        E::InvalidMessage(InvalidMessage::InvalidContentType) => TlsProblem {
            sentence:
                "the other end does not speak TLS on this port; use http:// or no --ca, or enable TLS there"
                    .into(),
            is_about_trust: false,
        },
        other => TlsProblem { sentence: other.to_string(), is_about_trust: false },
    }
}
