//! Writes to NATS JetStream: the few lines of its protocol that publishing and its API take.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::Args;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, BufWriter};
use tokio::net::TcpStream;
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};

use crate::load::Recorder;

/// What NATS clients wait for an acknowledgement by default.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const API_ATTEMPTS_MAX: u32 = 60;
const API_PAUSE: Duration = Duration::from_millis(500);
/// Larger messages are none of ours.
const PAYLOAD_BYTES_MAX: usize = 1 << 20;

#[derive(Args, Debug)]
pub struct StepDownArgs {
    #[arg(long, value_delimiter = ',', required = true)]
    endpoints: Vec<String>,
    #[arg(long, default_value_t = 12)]
    streams: usize,
}

/// A connection with an inbox of its own and one request under way.
struct Connection {
    reader: BufReader<OwnedReadHalf>,
    writer: BufWriter<OwnedWriteHalf>,
    inbox: String,
    requests: u64,
}

impl Connection {
    async fn open(endpoint: &str) -> anyhow::Result<Self> {
        let stream = TcpStream::connect(endpoint).await?;
        stream.set_nodelay(true)?;
        let (reader, writer) = stream.into_split();
        let inbox = format!("_INBOX.{:016x}", rand::random::<u64>());
        let mut connection =
            Self { reader: BufReader::new(reader), writer: BufWriter::new(writer), inbox, requests: 0 };
        let options = json!({"verbose": false, "pedantic": false, "headers": true, "no_responders": true,
            "lang": "rust", "version": "0", "protocol": 1});
        let hello = format!("CONNECT {options}\r\nSUB {}.* 1\r\nPING\r\n", connection.inbox);
        connection.writer.write_all(hello.as_bytes()).await?;
        connection.writer.flush().await?;
        Ok(connection)
    }

    async fn request(&mut self, subject: &str, payload: &[u8]) -> anyhow::Result<Value> {
        tokio::time::timeout(ANSWER_TIMEOUT, self.ask(subject, payload)).await.context("no answer")?
    }

    async fn ask(&mut self, subject: &str, payload: &[u8]) -> anyhow::Result<Value> {
        self.requests += 1;
        let reply = format!("{}.{}", self.inbox, self.requests);
        self.writer.write_all(format!("PUB {subject} {reply} {}\r\n", payload.len()).as_bytes()).await?;
        self.writer.write_all(payload).await?;
        self.writer.write_all(b"\r\n").await?;
        self.writer.flush().await?;
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).await? == 0 {
                bail!("the server closed the connection");
            }
            let words: Vec<&str> = line.split_whitespace().collect();
            let (to, headers, total) = match words[..] {
                ["PING"] => {
                    self.writer.write_all(b"PONG\r\n").await?;
                    self.writer.flush().await?;
                    continue;
                }
                ["MSG", to, _, .., total] => (to, 0, total.parse::<usize>()?),
                ["HMSG", to, _, .., headers, total] => {
                    (to, headers.parse::<usize>()?, total.parse::<usize>()?)
                }
                ["-ERR", ..] => bail!("{}", line.trim_end()),
                _ => continue,
            };
            if total > PAYLOAD_BYTES_MAX || headers > total {
                bail!("a message of {total} bytes");
            }
            let mut payload = vec![0; total + 2];
            self.reader.read_exact(&mut payload).await?;
            // An answer to a request that was given up.
            if to != reply {
                continue;
            }
            if headers > 0 && payload.starts_with(b"NATS/1.0 503") {
                bail!("nobody responds");
            }
            let answer: Value = serde_json::from_slice(&payload[headers..total])?;
            if let Some(error) = answer.get("error") {
                bail!("{error}");
            }
            return Ok(answer);
        }
    }
}

/// Asks until it is done: a cluster that has just started has no leader yet.
async fn api(endpoints: &[String], subject: &str, payload: &Value) -> anyhow::Result<Value> {
    let mut last = None;
    for attempt in 0..API_ATTEMPTS_MAX {
        let endpoint = &endpoints[attempt as usize % endpoints.len()];
        let asked = async {
            Connection::open(endpoint).await?.request(subject, payload.to_string().as_bytes()).await
        };
        match asked.await {
            Ok(answer) => return Ok(answer),
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(API_PAUSE).await;
    }
    Err(last.unwrap_or_else(|| anyhow::anyhow!("not asked"))).with_context(|| subject.to_owned())
}

/// Streams with three replicas each, on disk.
pub async fn create_streams(endpoints: &[String], streams: usize) -> anyhow::Result<()> {
    for stream in 0..streams {
        let configuration = json!({"name": format!("S{stream}"), "subjects": [format!("s{stream}.>")],
            "num_replicas": 3, "storage": "file", "retention": "limits", "discard": "old",
            "max_msgs_per_subject": 1});
        api(endpoints, &format!("$JS.API.STREAM.CREATE.S{stream}"), &configuration).await?;
    }
    Ok(())
}

/// Publishes, and waits for each acknowledgement.
pub async fn write(
    endpoints: Vec<String>,
    client: usize,
    streams: usize,
    value: Bytes,
    mut recorder: Recorder,
) -> anyhow::Result<Recorder> {
    let mut connection = None;
    let mut turn = client;
    for number in 0u64.. {
        if recorder.is_stopped() {
            break;
        }
        let began = Instant::now();
        let subject = format!("s{}.k{client}-{}", (number as usize + client) % streams, number % 1_000);
        let written = async {
            let open = match connection.take() {
                Some(open) => connection.insert(open),
                None => connection.insert(Connection::open(&endpoints[turn % endpoints.len()]).await?),
            };
            open.request(&subject, &value).await
        };
        let result = written.await;
        if result.is_err() {
            // Whatever happened to it: a fresh one is in a known state.
            connection = None;
            turn += 1;
        }
        recorder.record(began, result).await;
    }
    Ok(recorder)
}

/// Every stream's leader hands over.
pub async fn step_down(args: StepDownArgs) -> anyhow::Result<()> {
    for stream in 0..args.streams {
        api(&args.endpoints, &format!("$JS.API.STREAM.LEADER.STEPDOWN.S{stream}"), &json!({})).await?;
    }
    Ok(())
}
