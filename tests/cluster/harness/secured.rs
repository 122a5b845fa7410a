//! Certificates and tokens for clusters that encrypt and ask who calls, made by the commands that operators use.

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use evenkeel_client::{ClientTls, Token};
use http::{Method, Request};
use http_body_util::{BodyExt, Full};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use tempfile::TempDir;

use super::http::{Answer, TIMEOUT};
use super::process::evenkeel;

/// May do everything.
pub const ADMIN: &str = "admin";
/// May look and nothing else.
pub const READER: &str = "reader";
/// May change records.
pub const WRITER: &str = "writer";

/// An authority with certificates, and three tokens.
#[derive(Clone, Debug)]
pub struct Secured {
    folder: Arc<TempDir>,
}

impl Secured {
    pub async fn new() -> Self {
        let folder = tempfile::Builder::new().prefix("evenkeel-tls-").tempdir().unwrap();
        let this = Self { folder: Arc::new(folder) };
        let hosts = "127.0.0.1,localhost";
        this.run(&["tls", "init", &this.path(""), "--broker", hosts, "--gateway-host", hosts]).await;
        for (name, roles) in [(ADMIN, "write,operate"), (READER, "read"), (WRITER, "write")] {
            this.add_token(name, roles).await;
        }
        this
    }

    /// A new token, known to the servers from their next look at the file on.
    pub async fn add_token(&self, name: &str, roles: &str) {
        let out = self.path(&format!("{name}.token"));
        let line = self.run(&["token", name, "--role", roles, "--out", &out]).await;
        let mut file =
            std::fs::OpenOptions::new().create(true).append(true).open(self.path("tokens")).unwrap();
        file.write_all(line.as_bytes()).unwrap();
    }

    /// The servers take it until their next look at the file.
    pub fn remove_token(&self, name: &str) {
        let tokens = std::fs::read_to_string(self.path("tokens")).unwrap();
        let kept: String =
            tokens.lines().filter(|l| !l.starts_with(name)).map(|l| format!("{l}\n")).collect();
        std::fs::write(self.path("tokens"), kept).unwrap();
    }

    /// A command that must succeed; its output.
    pub async fn run(&self, words: &[&str]) -> String {
        let output = evenkeel(words.iter().copied()).await;
        assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    pub fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }

    /// Trusts the cluster, and shows this certificate if there is one.
    pub fn tls(&self, certificate: Option<&str>) -> ClientTls {
        let file = |end: &str| certificate.map(|name| PathBuf::from(self.path(&format!("{name}.{end}"))));
        let own = file("crt").zip(file("key"));
        let own = own.as_ref().map(|(certificate, key)| (certificate.as_path(), key.as_path()));
        ClientTls::load(self.path("ca.crt").as_ref(), own).unwrap()
    }

    pub fn token_text(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(&format!("{name}.token"))).unwrap().trim().to_owned()
    }

    pub fn token(&self, name: &str) -> Token {
        Token::new(&self.token_text(name)).unwrap()
    }

    /// Sends a request without a body, with an `authorization` header if there is one.
    pub async fn http(
        &self,
        method: Method,
        url: &str,
        authorization: Option<&str>,
    ) -> Result<Answer, String> {
        let mut request = Request::builder().method(method).uri(url);
        if let Some(text) = authorization {
            request = request.header("authorization", text);
        }
        let request = request.body(Full::<Bytes>::default()).unwrap();
        let exchange = async {
            let client = Client::builder(TokioExecutor::new()).build(self.tls(None).http());
            let response = client.request(request).await.map_err(|error| format!("{url}: {error:?}"))?;
            let (head, body) = response.into_parts();
            let body = body.collect().await.map_err(|error| format!("{url}: {error}"))?.to_bytes();
            Ok(Answer { status: head.status, headers: head.headers, body })
        };
        tokio::time::timeout(TIMEOUT, exchange)
            .await
            .map_err(|_| format!("{url}: no answer in {TIMEOUT:?}"))?
    }

    /// The same, as the holder of a token.
    pub async fn http_as(&self, name: &str, method: Method, url: &str) -> Result<Answer, String> {
        self.http(method, url, Some(&format!("Bearer {}", self.token_text(name)))).await
    }
}
