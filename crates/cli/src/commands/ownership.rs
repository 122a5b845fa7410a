//! `evenkeel pause` and `evenkeel resume`: whether leaderships may be moved at all.

use crate::cluster::connection::Connection;
use crate::output::outcome::{Failure, print};

pub async fn pause(connection: &Connection) -> Result<(), Failure> {
    set(connection, true).await
}

pub async fn resume(connection: &Connection) -> Result<(), Failure> {
    set(connection, false).await
}

async fn set(connection: &Connection, paused: bool) -> Result<(), Failure> {
    let api = connection.cluster_api()?;
    print(sentence(api.set_paused(paused).await?))
}

fn sentence(paused: bool) -> &'static str {
    match paused {
        true => "ownership is paused: every rebalance is refused until `evenkeel resume`",
        false => "ownership is not paused: `evenkeel rebalance` moves leaderships again",
    }
}
