//! The protocol of sd_notify(3): datagrams of `NAME=VALUE` lines to the socket that systemd names.
//!
//! The watchdog is told of progress, not of a timer that goes off: see [`Progress`].

use std::ffi::OsString;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

use crate::progress::Progress;

/// Pings in the time that systemd allows between two: one may be lost or late.
const PINGS_PER_TIMEOUT: u32 = 3;
/// How soon a stall or its end is shown where there is no watchdog.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// The systemd that started this process. Cheap handle.
#[derive(Clone, Debug)]
pub struct Systemd(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    socket: UnixDatagram,
    address: SocketAddr,
    watchdog_timeout: Option<Duration>,
}

impl Systemd {
    /// As the environment tells; `None` when nobody wants to be notified.
    #[must_use]
    pub fn from_environment() -> Option<Self> {
        let socket = std::env::var_os("NOTIFY_SOCKET").filter(|path| !path.is_empty())?;
        let number = |name| std::env::var(name).ok()?.parse::<u64>().ok();
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let watchdog_timeout =
            number("WATCHDOG_USEC").filter(|us| ours && *us > 0).map(Duration::from_micros);
        match Self::at(&socket, watchdog_timeout) {
            Ok(systemd) => Some(systemd),
            Err(error) => {
                tracing::warn!(
                    "environment variable NOTIFY_SOCKET = {socket:?}: {error}; systemd is not told anything"
                );
                None
            }
        }
    }

    /// At a socket's path, or its abstract name after an `@`.
    fn at(socket: &OsString, watchdog_timeout: Option<Duration>) -> io::Result<Self> {
        let address = match socket.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(socket)?,
        };
        let socket = UnixDatagram::unbound()?;
        // A supervisor that does not read must not hold us up.
        socket.set_nonblocking(true)?;
        Ok(Self(Arc::new(Inner { socket, address, watchdog_timeout })))
    }

    /// Tells when the process has started, and then again and again that it makes progress, for as long as it does.
    pub async fn report(self, progress: Progress) {
        self.tell("STATUS=starting: replaying what is on disk");
        progress.started().await;
        self.tell("READY=1\nSTATUS=serving");
        let interval = self.0.watchdog_timeout.map_or(LOOK_INTERVAL, |timeout| timeout / PINGS_PER_TIMEOUT);
        let mut stalled = false;
        loop {
            match (progress.is_alive(), stalled) {
                (true, false) => self.ping(),
                (true, true) => {
                    self.ping();
                    self.tell("STATUS=serving");
                }
                (false, _) => {
                    let seconds = progress.silence().as_secs();
                    self.tell(&format!("STATUS=stalled: no progress for {seconds} s"));
                }
            }
            stalled = !progress.is_alive();
            tokio::time::sleep(interval).await;
        }
    }

    /// The process was asked to stop.
    pub fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=stopping: finishing what is under way");
    }

    fn ping(&self) {
        if self.0.watchdog_timeout.is_some() {
            self.tell("WATCHDOG=1");
        }
    }

    fn tell(&self, lines: &str) {
        if let Err(error) = self.0.socket.send_to_addr(lines.as_bytes(), &self.0.address) {
            tracing::debug!(%error, lines, "systemd was not told");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::STALLED_AFTER;

    const TIMEOUT: Duration = Duration::from_secs(3);

    /// Systemd's end, and ours.
    fn pair(folder: &tempfile::TempDir) -> (UnixDatagram, Systemd) {
        let path = folder.path().join("notify");
        let listener = UnixDatagram::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        (listener, Systemd::at(&path.into(), Some(TIMEOUT)).unwrap())
    }

    /// All that was told since the last look.
    fn told(listener: &UnixDatagram) -> Vec<String> {
        let mut buffer = [0; 256];
        std::iter::from_fn(|| {
            let count = listener.recv(&mut buffer).ok()?;
            Some(String::from_utf8_lossy(&buffer[..count]).into_owned())
        })
        .collect()
    }

    async fn pass(time: Duration) {
        // Tasks run before and after.
        tokio::task::yield_now().await;
        tokio::time::advance(time).await;
        tokio::task::yield_now().await;
    }

    #[tokio::test(start_paused = true)]
    async fn systemd_is_told_of_start_progress_stall_and_stop() {
        let folder = tempfile::tempdir().unwrap();
        let (listener, systemd) = pair(&folder);
        let progress = Progress::new();
        let reporting = tokio::spawn(systemd.clone().report(progress.clone()));
        pass(Duration::ZERO).await;
        assert_eq!(told(&listener), ["STATUS=starting: replaying what is on disk"]);

        progress.start();
        pass(Duration::ZERO).await;
        assert_eq!(told(&listener), ["READY=1\nSTATUS=serving", "WATCHDOG=1"]);
        progress.beat();
        pass(Duration::from_secs(1)).await;
        assert_eq!(told(&listener), ["WATCHDOG=1"]);

        // The runtime still runs this task, but the main loop does not go round: no ping.
        pass(STALLED_AFTER).await;
        assert_eq!(told(&listener), ["STATUS=stalled: no progress for 11 s"]);
        progress.beat();
        pass(Duration::from_secs(1)).await;
        assert_eq!(told(&listener), ["WATCHDOG=1", "STATUS=serving"]);

        systemd.stopping();
        assert!(told(&listener)[0].starts_with("STOPPING=1\n"));
        reporting.abort();
    }

    #[tokio::test]
    async fn abstract_names_are_understood() {
        let name = format!("evenkeel-test-{}", std::process::id());
        let address = SocketAddr::from_abstract_name(&name).unwrap();
        let listener = UnixDatagram::bind_addr(&address).unwrap();
        listener.set_nonblocking(true).unwrap();
        Systemd::at(&format!("@{name}").into(), None).unwrap().stopping();
        assert!(told(&listener)[0].starts_with("STOPPING=1\n"));
    }
}
