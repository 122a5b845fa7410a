//! A disk that fails a sync, on real processes: a library loaded before all others makes fsync and fdatasync fail from the moment
//! on that a file appears. The broker stops, and nothing is acknowledged after it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use evenkeel_protocol::v1::{Consistency, PutRequest};

use crate::harness::{Cluster, Load, Process, Spec, wait_until};

const SHIM: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

static int fails(void) {
    const char *flag = getenv("SYNC_FAILS_WHEN_THERE_IS");
    return flag && access(flag, F_OK) == 0;
}

int fsync(int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fsync");
    if (fails()) { errno = EIO; return -1; }
    return real(fd);
}

int fdatasync(int fd) {
    int (*real)(int) = dlsym(RTLD_NEXT, "fdatasync");
    if (fails()) { errno = EIO; return -1; }
    return real(fd);
}
"#;

/// Compiles the library.
fn shim(folder: &Path) -> PathBuf {
    let (source, library) = (folder.join("failing_sync.c"), folder.join("failing_sync.so"));
    std::fs::write(&source, SHIM).unwrap();
    let compiled =
        Command::new("cc").args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source).arg("-ldl").output();
    let compiled = compiled.unwrap();
    assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
    library
}

/// Restarts every broker so that its syncs fail once the returned file is there.
async fn with_failing_syncs(cluster: &mut Cluster, folder: &Path) -> PathBuf {
    let (library, flag) = (shim(folder), folder.join("syncs-fail"));
    for node in 0..cluster.brokers.len() {
        cluster.kill(node);
        let broker = &mut cluster.brokers[node];
        broker.environment.push(("LD_PRELOAD".into(), library.clone().into()));
        broker.environment.push(("SYNC_FAILS_WHEN_THERE_IS".into(), OsString::from(&flag)));
        cluster.restart(node);
        cluster.wait_until_caught_up(node).await;
    }
    flag
}

/// The broker has ended by itself and says why.
async fn assert_stopped(broker: &mut Process) {
    let status = broker.ended().await;
    let log = broker.log();
    assert_eq!(status.code(), Some(1), "{log}");
    let error = log.lines().rev().find_map(|line| line.strip_prefix("error: ")).unwrap();
    for part in ["nothing more can be acknowledged", "cannot sync", ".log", "check the disk"] {
        assert!(error.contains(part), "{part:?} is missing in: {error}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_whose_sync_fails_stops_and_acknowledges_nothing_after_it() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(Spec::new(1, 1)).await;
    let flag = with_failing_syncs(&mut cluster, folder.path()).await;
    let client = cluster.client();
    client.put("acknowledged", "1", None).await.unwrap();
    std::fs::write(&flag, "").unwrap();
    let put = PutRequest { key: "after".into(), value: "2".into(), ..Default::default() };
    let mut records = cluster.records();
    let (refused, ()) = tokio::join!(records.put(put), assert_stopped(&mut cluster.brokers[0]));
    assert!(refused.is_err(), "{refused:?}");

    std::fs::remove_file(flag).unwrap();
    cluster.restart(0);
    let record = client.get("acknowledged", Consistency::Linearizable).await.unwrap().unwrap();
    assert_eq!(&*record.value, b"1");
    client.put("again", "3", None).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_syncs_of_all_brokers_fail_under_load_what_was_acknowledged_is_there_afterwards() {
    let folder = tempfile::tempdir().unwrap();
    let mut cluster = Cluster::start(Spec::new(3, 3)).await;
    let flag = with_failing_syncs(&mut cluster, folder.path()).await;
    let client = cluster.client();
    let load = Load::with_retries(&client, 4);
    load.progress(200).await;
    std::fs::write(&flag, "").unwrap();
    // The last one has nothing to sync any more: it finds no majority.
    wait_until("a majority to stop", async || {
        let running =
            cluster.brokers.iter_mut().filter_map(|broker| broker.is_running().then_some(())).count();
        if running <= 1 { Ok(()) } else { Err(format!("{running} run")) }
    })
    .await;
    for broker in &mut cluster.brokers {
        if broker.is_running() {
            broker.kill();
        } else {
            assert_stopped(broker).await;
        }
    }
    std::fs::remove_file(flag).unwrap();
    for node in 0..3 {
        cluster.restart(node);
    }
    load.progress(100).await;
    let ledger = load.stop().await;
    ledger.check(&client).await;
}
