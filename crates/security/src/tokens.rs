//! Bearer tokens, of which a server keeps hashes only.
//!
//! One line per token: a name, its roles and `sha256:` with the SHA-256 of the token in hexadecimal. A token is long and
//! random, so a plain hash is as good as a slow one. Every comparison takes the same time whatever matches.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use ring::digest;
use subtle::{Choice, ConditionallySelectable, ConstantTimeEq};

use crate::caller::Caller;
use crate::roles::Roles;

/// Shorter tokens could be guessed.
pub const TOKEN_BYTES_MIN: usize = 16;
/// Longer ones are not tokens of ours.
const TOKEN_BYTES_MAX: usize = 1_024;
/// Each costs a comparison per connection.
const TOKENS_MAX: usize = 10_000;
const HASH_PREFIX: &str = "sha256:";
const NAME_BYTES_MAX: usize = 64;

/// What a server keeps of a token.
#[derive(Clone)]
pub struct Token {
    caller: Arc<Caller>,
    hash: [u8; 32],
}

/// Every token that is known.
#[derive(Clone, Default)]
pub struct Tokens(Vec<Token>);

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|token| &token.caller.name)).finish()
    }
}

/// A line that is not understood. Never shows the line: it may hold a token by mistake.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct TokensError {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong, and the remedy.
    pub problem: String,
}

fn hash(token: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, token);
    let mut hash = [0; 32];
    hash.copy_from_slice(digest.as_ref());
    hash
}

/// A token as the server's file has it.
#[must_use]
pub fn hashed(token: &str) -> String {
    let hex: String = hash(token.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{HASH_PREFIX}{hex}")
}

fn unhex(text: &str) -> Option<[u8; 32]> {
    let text = text.as_bytes();
    if text.len() != 64 {
        return None;
    }
    let mut hash = [0; 32];
    for (byte, pair) in hash.iter_mut().zip(text.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(hash)
}

impl FromStr for Tokens {
    type Err = TokensError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut tokens: Vec<Token> = Vec::new();
        for (index, line) in text.lines().enumerate() {
            let wrong = |problem: String| TokensError { line: index + 1, problem };
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            if tokens.len() == TOKENS_MAX {
                return Err(wrong(format!("there are more than {TOKENS_MAX} tokens; remove some")));
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            let [name, roles, hash] = words[..] else {
                return Err(wrong(
                    "has not three words; write NAME ROLES sha256:HASH, as `evenkeel token` does".into(),
                ));
            };
            if name.len() > NAME_BYTES_MAX {
                return Err(wrong(format!("the name is longer than {NAME_BYTES_MAX} bytes; shorten it")));
            }
            // The second word could be a token too, if the order is wrong.
            let roles: Roles = roles.parse().map_err(|_| {
                wrong(
                    "the second word is no list of roles; write read, write or operate, several with commas"
                        .into(),
                )
            })?;
            let hash = hash.strip_prefix(HASH_PREFIX).and_then(unhex).ok_or_else(|| {
                wrong(
                    "the third word is not sha256: and 64 hexadecimal digits; make one with `evenkeel token`"
                        .into(),
                )
            })?;
            if let Some(same) = tokens.iter().find(|known| known.caller.name == name || known.hash == hash) {
                let problem = format!("repeats the name or the token of {}; remove one", same.caller.name);
                return Err(wrong(problem));
            }
            tokens.push(Token { caller: Arc::new(Caller::new(name, roles)), hash });
        }
        Ok(Self(tokens))
    }
}

impl Tokens {
    /// Whose token this is. Looks at all of them, so that the time tells nothing.
    #[must_use]
    pub fn find(&self, token: &[u8]) -> Option<&Arc<Caller>> {
        if token.len() > TOKEN_BYTES_MAX {
            return None;
        }
        let given = hash(token);
        let mut found = 0u32;
        for (number, token) in (1u32..).zip(&self.0) {
            let same: Choice = token.hash.ct_eq(&given);
            found.conditional_assign(&number, same);
        }
        self.0.get((found as usize).checked_sub(1)?).map(|token| &token.caller)
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::roles::Role;

    #[test]
    fn a_token_is_found_by_its_hash_and_no_other_is() {
        let file = format!(
            "# tokens\n\nops operate {}\n  app read,write {}  \n",
            hashed("0123456789abcdef"),
            hashed("fedcba9876543210")
        );
        let tokens: Tokens = file.parse().unwrap();
        assert_eq!(tokens.len(), 2);
        let ops = tokens.find(b"0123456789abcdef").unwrap();
        assert!(ops.name == "ops" && ops.roles.include(Role::Operate));
        assert_eq!(tokens.find(b"fedcba9876543210").unwrap().name, "app");
        for wrong in [&b""[..], b"0123456789abcdeF", b"sha256:", hashed("0123456789abcdef").as_bytes()] {
            assert!(tokens.find(wrong).is_none());
        }
        assert!(tokens.find(&[b'x'; TOKEN_BYTES_MAX + 1]).is_none());
        assert!(Tokens::default().find(b"").is_none());
        assert_eq!(format!("{tokens:?}"), r#"["ops", "app"]"#, "hashes are not shown");
    }

    #[test]
    fn a_line_that_is_not_understood_is_numbered_and_never_shown() {
        let good = hashed("0123456789abcdef");
        let table = [
            ("ops operate", "has not three words"),
            ("ops topsecret sha256:00", "no list of roles"),
            ("ops operate topsecret", "is not sha256:"),
            ("ops operate sha256:topsecret", "is not sha256:"),
            ("ops operate sha256:00", "is not sha256:"),
        ];
        for (line, expected) in table {
            let error = format!("\n{line}").parse::<Tokens>().unwrap_err().to_string();
            assert!(error.starts_with("line 2: ") && error.contains(expected), "{error}");
            assert!(!error.contains("topsecret"), "{error}");
        }
        let twice = format!("a read {good}\nb read {good}").parse::<Tokens>().unwrap_err().to_string();
        assert!(twice.contains("line 2: repeats the name or the token of a"), "{twice}");
    }

    #[test]
    fn any_text_is_read_or_refused_without_a_panic() {
        let pieces = ["ops", " ", "operate", "sha256:", "é", "00", "\n", "\0", ","];
        let mut seed = 1u64;
        for _ in 0..2_000 {
            let mut text = String::new();
            for _ in 0..8 {
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                text.push_str(pieces[(seed >> 33) as usize % pieces.len()]);
            }
            let _ = text.parse::<Tokens>();
        }
    }
}
