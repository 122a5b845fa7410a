//! Looks at certificates without trusting them: those of a file, or those that a server shows.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use crate::dial::in_words;
use crate::options::OptionsError;
use crate::tls::{Chain, provider, read_authority, read_chain};

/// Connecting and the handshake together.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// Certificates as somebody showed them, the holder's own first.
#[derive(Clone, Debug)]
pub struct Shown {
    chain: Chain,
    /// Whom was asked for, when a server showed them.
    host: Option<String>,
}

/// Accepts any certificate: what is shown is only looked at, and nothing is sent.
#[derive(Debug)]
struct Anybody(Arc<CryptoProvider>);

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

impl Shown {
    /// The certificates of a PEM file.
    ///
    /// # Errors
    /// When it holds none.
    pub fn by_file(path: &Path) -> Result<Self, OptionsError> {
        Ok(Self { chain: read_chain("FILE", path)?, host: None })
    }

    /// The certificates that a server shows.
    ///
    /// # Errors
    /// When nobody answers in time, or does not speak TLS.
    pub async fn by_server(host: &str, port: u16) -> io::Result<Self> {
        let provider = provider();
        let config = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .map_err(io::Error::other)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody(provider)))
            .with_no_client_auth();
        let name = ServerName::try_from(host.to_owned()).map_err(io::Error::other)?;
        let look = async {
            let stream = TcpStream::connect((host, port)).await?;
            let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await?;
            let chain = stream.get_ref().1.peer_certificates().unwrap_or_default();
            Ok::<Chain, io::Error>(chain.iter().map(|shown| shown.clone().into_owned()).collect())
        };
        let looked = timeout(LOOK_TIMEOUT, look).await;
        let chain = looked.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))?;
        Ok(Self { chain, host: Some(host.to_owned()) })
    }

    /// Each in DER, the holder's own first.
    pub fn certificates(&self) -> impl Iterator<Item = &[u8]> {
        self.chain.iter().map(AsRef::as_ref)
    }

    /// Why whoever trusts this authority would not accept them now; `None` when they would.
    ///
    /// # Errors
    /// When the authority's file cannot be used.
    pub fn distrusted_by(&self, authority: &Path) -> Result<Option<String>, OptionsError> {
        let (roots, _) = read_authority("--ca", authority)?;
        let Some((own, between)) = self.chain.split_first() else { return Ok(Some("no certificate".into())) };
        let unfit = |error: &dyn std::fmt::Display| {
            crate::options::refuse("--ca", authority, error.to_string(), "name the authority's certificate")
        };
        let now = UnixTime::now();
        let verified = match self.host.as_ref().and_then(|host| ServerName::try_from(host.as_str()).ok()) {
            Some(name) => WebPkiServerVerifier::builder_with_provider(roots, provider())
                .build()
                .map_err(|error| unfit(&error))?
                .verify_server_cert(own, between, &name, &[], now)
                .map(drop),
            None => WebPkiClientVerifier::builder_with_provider(roots, provider())
                .build()
                .map_err(|error| unfit(&error))?
                .verify_client_cert(own, between, now)
                .map(drop),
        };
        Ok(verified.err().map(|error| in_words(&error).sentence))
    }
}
