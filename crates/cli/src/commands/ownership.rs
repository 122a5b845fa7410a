//! `evenkeel pause` and `evenkeel resume`: whether leaderships may be moved at all.

use serde_json::json;

use crate::cluster::connection::Connection;
use crate::output::format::PrintArgs;
use crate::output::outcome::Failure;

pub async fn pause(shown: PrintArgs, connection: &Connection) -> Result<(), Failure> {
    set(connection, true, shown).await
}

pub async fn resume(shown: PrintArgs, connection: &Connection) -> Result<(), Failure> {
    set(connection, false, shown).await
}

async fn set(connection: &Connection, paused: bool, shown: PrintArgs) -> Result<(), Failure> {
    let paused = connection.cluster_api()?.set_paused(paused).await?;
    shown.output.show(|| sentence(paused), || json!({"paused": paused}))
}

fn sentence(paused: bool) -> &'static str {
    match paused {
        true => "ownership is paused: every rebalance is refused until `evenkeel resume`",
        false => "ownership is not paused: `evenkeel rebalance` moves leaderships again",
    }
}
