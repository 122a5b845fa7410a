//! HTTP/2 connections without a client library: as cheap as ten thousand of them must be, and as impolite as wanted.

use std::net::Ipv4Addr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What a client sends first, and after it a SETTINGS frame that sets nothing.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const NO_SETTINGS: [u8; 9] = [0, 0, 0, SETTINGS, 0, 0, 0, 0, 0];

const SETTINGS: u8 = 4;
const PING: u8 = 6;
const ACK: u8 = 1;

/// Connects and says what a client says first.
pub async fn connect(port: u16) -> std::io::Result<TcpStream> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
    stream.write_all(PREFACE).await?;
    stream.write_all(&NO_SETTINGS).await?;
    Ok(stream)
}

/// Answers what a server asks of an idle client, until the connection ends.
pub async fn stay_idle(mut stream: TcpStream) -> std::io::Result<()> {
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await?;
        let [a, b, c, kind, flags, ..] = head;
        let mut payload = vec![0; usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c)];
        stream.read_exact(&mut payload).await?;
        if flags & ACK != 0 {
            continue;
        }
        match kind {
            PING => {
                head[4] = ACK;
                stream.write_all(&head).await?;
                stream.write_all(&payload).await?;
            }
            SETTINGS => stream.write_all(&[0, 0, 0, SETTINGS, ACK, 0, 0, 0, 0]).await?,
            _ => {}
        }
    }
}
