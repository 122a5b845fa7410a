//! What a client proves itself with, besides a certificate.

use tonic::metadata::{Ascii, MetadataValue};

/// A bearer token. Never shown, by `Debug` neither.
#[derive(Clone, Debug)]
pub struct Token {
    header: MetadataValue<Ascii>,
}

/// Not a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a token: it is empty, or holds spaces or characters outside of ASCII")]
pub struct NotAToken;

impl Token {
    /// Takes a token, without spaces or line ends around it.
    ///
    /// # Errors
    /// When no server could have given it.
    pub fn new(text: &str) -> Result<Self, NotAToken> {
        let text = text.trim();
        if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(NotAToken);
        }
        let mut header = MetadataValue::try_from(format!("Bearer {text}")).map_err(|_| NotAToken)?;
        header.set_sensitive(true);
        Ok(Self { header })
    }

    /// As the value of an `authorization` header.
    #[must_use]
    pub fn header(&self) -> &MetadataValue<Ascii> {
        &self.header
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_sent_and_never_shown() {
        let token = Token::new(" secret-token\n").unwrap();
        assert_eq!(token.header().to_str().unwrap(), "Bearer secret-token");
        assert!(!format!("{token:?}").contains("secret"), "{token:?}");
        for bad in ["", " \n", "two words", "tökén", "a\0b"] {
            assert!(Token::new(bad).is_err(), "{bad:?}");
        }
    }
}
