//! What goes wrong in a run, and when: chosen by the seed, done between two steps of the simulation.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use evenkeel_raft_storage::faulty_disk::Crash;
use turmoil::Sim;

use crate::chance::Chance;
use crate::flipped_bit::FlippedBit;
use crate::machine::{ASKED_TO, Machine, name};
use crate::witness::Shared;

pub const GATEWAY: &str = "gateway";
/// A usual disk's sync.
const SYNC_FAST: (Duration, Duration) = (Duration::from_micros(200), Duration::from_millis(4));

/// How well clocks keep time in a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clocks {
    Right,
    /// Wrong by less than the margin that elections leave beyond the lease.
    Drifting,
    /// Wrong by any amount: leases prove nothing then, everything else must hold.
    Wild,
}

/// Ends a fault.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Remedy {
    Restart(usize),
    Repair(String, String),
    Release(String, String),
    Calm(String, String),
    FastDisk(usize),
    Room(usize),
}

pub struct Nemesis {
    chance: Chance,
    machines: Vec<Arc<Machine>>,
    clocks: Clocks,
    next_at: Duration,
    remedies: Vec<(Duration, Remedy)>,
    /// Who may end by itself: its disk is full or fails.
    disk_trouble: Vec<bool>,
    down: Vec<bool>,
    /// At most one at a time.
    flipped: Option<FlippedBit>,
    /// Was started on a log with a flipped bit, which it must refuse.
    must_refuse: Option<usize>,
}

impl Nemesis {
    pub fn new(seed: u64, machines: Vec<Arc<Machine>>, clocks: Clocks) -> Self {
        let count = machines.len();
        for machine in &machines {
            machine.disk.slow_syncs(SYNC_FAST.0, SYNC_FAST.1, seed + machine.node as u64);
        }
        let mut nemesis = Self {
            chance: Chance::new(seed, "nemesis"),
            machines,
            clocks,
            next_at: Duration::from_secs(2),
            remedies: Vec::new(),
            disk_trouble: vec![false; count],
            down: vec![false; count],
            flipped: None,
            must_refuse: None,
        };
        nemesis.misset_clocks();
        nemesis
    }

    fn misset_clocks(&mut self) {
        for machine in &self.machines {
            let ppm = match self.clocks {
                Clocks::Right => 0,
                Clocks::Drifting => self.chance.between(0, 8_000),
                Clocks::Wild => self.chance.between(0, 200_000),
            };
            machine.drift_ppm.store(ppm, Ordering::Relaxed);
        }
    }

    /// Does what is due.
    pub fn act(&mut self, now: Duration, sim: &mut Sim<'_>, shared: &Shared) {
        self.see_who_ended(now, sim, shared);
        self.see_who_must_refuse(shared);
        let due: Vec<Remedy> = {
            let (due, later) = self.remedies.drain(..).partition(|(at, _)| *at <= now);
            self.remedies = later;
            let due: Vec<(Duration, Remedy)> = due;
            due.into_iter().map(|(_, remedy)| remedy).collect()
        };
        for remedy in due {
            self.remedy(&remedy, sim, shared);
        }
        if now >= self.next_at {
            self.next_at = now + self.chance.millis(200, 3_000);
            self.strike(now, sim, shared);
        }
    }

    /// Ends all faults and starts everybody.
    pub fn heal(&mut self, sim: &mut Sim<'_>, shared: &Shared) {
        if self.must_refuse.is_none() {
            self.put_bit_back(shared);
        }
        let remedies: Vec<Remedy> = self.remedies.drain(..).map(|(_, remedy)| remedy).collect();
        for remedy in remedies {
            self.remedy(&remedy, sim, shared);
        }
        self.clocks = Clocks::Right;
        self.misset_clocks();
        self.next_at = Duration::MAX;
        shared.lock().note("all faults end");
    }

    fn later(&mut self, now: Duration, from_ms: u64, to_ms: u64, remedy: Remedy) {
        let at = now + self.chance.millis(from_ms, to_ms);
        self.remedies.push((at, remedy));
    }

    fn strike(&mut self, now: Duration, sim: &mut Sim<'_>, shared: &Shared) {
        let node = self.chance.index(self.machines.len());
        let kind = self.chance.between(0, 110);
        match kind {
            0..26 if !self.down[node] => self.crash(node, now, sim, shared),
            26..30 => {
                for node in 0..self.machines.len() {
                    if !self.down[node] {
                        self.crash(node, now, sim, shared);
                    }
                }
            }
            30..36 if !self.down[node] => {
                note(shared, "orderly stops", &format!("broker {node} is asked to stop"));
                self.machines[node].stop.notify_one();
            }
            36..52 => self.cut(now, sim, shared),
            52..60 => {
                let (a, b) = self.link();
                note(shared, "stalled links", &format!("{a} and {b} hear each other late"));
                sim.hold(a.as_str(), b.as_str());
                self.later(now, 50, 3_000, Remedy::Release(a, b));
            }
            60..68 => {
                let (a, b) = self.link();
                let most = self.chance.millis(20, 400);
                note(shared, "slow links", &format!("{a} and {b}: up to {most:?}"));
                sim.set_link_max_message_latency(a.as_str(), b.as_str(), most);
                self.later(now, 500, 6_000, Remedy::Calm(a, b));
            }
            68..74 => {
                let (a, b) = self.link();
                note(shared, "lossy links", &format!("{a} and {b} lose messages"));
                sim.set_link_fail_rate(a.as_str(), b.as_str(), 0.02);
                self.later(now, 200, 2_000, Remedy::Calm(a, b));
            }
            74..84 => {
                let (least, most) = (self.chance.millis(5, 50), self.chance.millis(50, 900));
                note(shared, "slow disks", &format!("broker {node}: syncs take {least:?} to {most:?}"));
                self.machines[node].disk.slow_syncs(least, most, self.chance.number());
                self.later(now, 300, 5_000, Remedy::FastDisk(node));
            }
            84..88 if !self.down[node] => {
                note(shared, "full disks", &format!("broker {node}'s disk is full"));
                let files = self.machines[node].disk.files();
                let used: usize = files
                    .iter()
                    .filter_map(|file| self.machines[node].disk.content(file))
                    .map(|c| c.len())
                    .sum();
                self.machines[node].disk.limit_bytes(Some(used as u64 + self.chance.between(0, 4_096)));
                self.disk_trouble[node] = true;
                self.later(now, 500, 4_000, Remedy::Room(node));
            }
            88..92 if !self.down[node] => {
                note(shared, "failing disks", &format!("broker {node}'s syncs fail"));
                self.machines[node].disk.fail_syncs();
                self.disk_trouble[node] = true;
            }
            92..97 if self.clocks == Clocks::Wild => {
                let jump = self.chance.between(50, 4_000);
                note(shared, "clock jumps", &format!("broker {node}'s clock jumps {jump} ms ahead"));
                self.machines[node].jump_ms.store(jump, Ordering::Relaxed);
            }
            97..104 if !self.down[node] => self.stall(node, now, sim, shared),
            104..110 if self.flipped.is_none() => self.flip(node, now, sim, shared),
            _ => {}
        }
    }

    /// The broker is as good as paused: it hears nobody, nobody hears it, its disk does not answer; then it gets and says
    /// everything at once. Its own timers run on, unlike those of a process that the kernel stopped.
    fn stall(&mut self, node: usize, now: Duration, sim: &Sim<'_>, shared: &Shared) {
        let pause = self.chance.millis(300, 6_000);
        note(shared, "stalled brokers", &format!("broker {node} stands still for {pause:?}"));
        let others = (0..self.machines.len()).filter(|other| *other != node).map(name);
        for other in others.chain([GATEWAY.to_owned()]) {
            sim.hold(name(node), other.as_str());
            self.remedies.push((now + pause, Remedy::Release(name(node), other)));
        }
        self.machines[node].disk.slow_syncs(pause, pause, 0);
        self.remedies.push((now + pause, Remedy::FastDisk(node)));
    }

    /// Some time after it runs into what is damaged, or is started anew, and must not go on.
    fn flip(&mut self, node: usize, now: Duration, sim: &mut Sim<'_>, shared: &Shared) {
        let disk = &self.machines[node].disk;
        let Some(bit) = FlippedBit::flip(node, disk, &mut self.chance) else { return };
        note(
            shared,
            "flipped bits",
            &format!("a bit of broker {node}'s log flips: {} at {}", bit.file.display(), bit.offset),
        );
        self.flipped = Some(bit);
        // It may come to read it.
        self.disk_trouble[node] = true;
        if !self.down[node] && self.chance.percent(60) {
            self.crash(node, now, sim, shared);
        }
    }

    fn put_bit_back(&mut self, shared: &Shared) {
        let Some(bit) = self.flipped.take() else { return };
        bit.undo(&self.machines[bit.node].disk);
        shared.lock().note(&format!("the flipped bit of broker {}'s log is put back", bit.node));
    }

    /// Who starts on a damaged log must end, not run.
    fn see_who_must_refuse(&mut self, shared: &Shared) {
        let Some(node) = self.must_refuse else { return };
        let mut shared = shared.lock();
        if shared.runs(node) {
            self.must_refuse = None;
            shared.fail(format!("broker {node} runs on a log of which a bit was flipped"));
        }
    }

    fn link(&mut self) -> (String, String) {
        let a = self.chance.index(self.machines.len());
        let b = (a + 1 + self.chance.index(self.machines.len())) % (self.machines.len() + 1);
        let host = |n: usize| if n == self.machines.len() { GATEWAY.to_owned() } else { name(n) };
        (host(a), host(b))
    }

    fn cut(&mut self, now: Duration, sim: &Sim<'_>, shared: &Shared) {
        let (a, b) = self.link();
        match self.chance.between(0, 3) {
            0 => {
                note(shared, "one-way cuts", &format!("{b} hears nothing of {a}"));
                sim.partition_oneway(a.as_str(), b.as_str());
                self.later(now, 200, 5_000, Remedy::Repair(a, b));
            }
            1 => {
                note(shared, "cuts", &format!("{a} and {b} do not hear each other"));
                sim.partition(a.as_str(), b.as_str());
                self.later(now, 200, 5_000, Remedy::Repair(a, b));
            }
            _ => {
                note(shared, "isolations", &format!("{a} hears no broker, and none hears it"));
                let others: Vec<String> =
                    (0..self.machines.len()).map(name).filter(|other| *other != a).collect();
                let until = self.chance.millis(200, 5_000);
                for other in others {
                    sim.partition(a.as_str(), other.as_str());
                    self.remedies.push((now + until, Remedy::Repair(a.clone(), other)));
                }
            }
        }
    }

    fn crash(&mut self, node: usize, now: Duration, sim: &mut Sim<'_>, shared: &Shared) {
        let seed = self.chance.number();
        let crash = match self.chance.between(0, 100) {
            0..15 => Crash::ProcessOnly,
            15..50 => Crash::LosesUnsynced,
            50..80 => Crash::Tears { seed },
            _ => Crash::Scatters { seed },
        };
        note(shared, "crashes", &format!("broker {node} crashes: {crash:?}"));
        sim.crash(name(node));
        self.after_death(node, crash, shared);
        match self.chance.between(0, 4) {
            0 => self.later(now, 5_000, 12_000, Remedy::Restart(node)),
            _ => self.later(now, 30, 3_000, Remedy::Restart(node)),
        }
    }

    fn after_death(&mut self, node: usize, crash: Crash, shared: &Shared) {
        shared.lock().broker_reset(node);
        let machine = &self.machines[node];
        machine.disk.crash(crash);
        machine.disk.limit_bytes(None);
        let kept = match crash {
            Crash::ProcessOnly => usize::MAX,
            Crash::LosesUnsynced => 0,
            Crash::Tears { .. } | Crash::Scatters { .. } => self.chance.index(machine.state.unsynced() + 1),
        };
        machine.state.crash(kept);
        self.down[node] = true;
        self.disk_trouble[node] = false;
        self.must_refuse = self.must_refuse.filter(|other| *other != node);
        self.remedies.retain(|(_, remedy)| *remedy != Remedy::Room(node));
    }

    /// Brokers that ended by themselves are started again, if they had a reason to.
    fn see_who_ended(&mut self, now: Duration, sim: &mut Sim<'_>, shared: &Shared) {
        for node in 0..self.machines.len() {
            let Some(why) = shared.lock().take_ended(node) else { continue };
            let damaged = self.flipped.as_ref().filter(|bit| bit.node == node);
            let damaged = damaged.map(|bit| bit.file.display().to_string());
            if let (Some(file), true) = (damaged, self.must_refuse == Some(node)) {
                self.must_refuse = None;
                if why.contains(&file) {
                    note(shared, "damaged logs refused", &format!("broker {node} refuses to start: {why}"));
                } else {
                    shared
                        .lock()
                        .fail(format!("broker {node} ended without naming the damaged {file}: {why}"));
                }
                self.put_bit_back(shared);
                sim.crash(name(node));
                self.after_death(node, Crash::ProcessOnly, shared);
                self.later(now, 50, 3_000, Remedy::Restart(node));
                continue;
            }
            if !self.disk_trouble[node] && why != ASKED_TO {
                shared.lock().fail(format!("broker {node} ended: {why}"));
                continue;
            }
            let crash = if why == ASKED_TO { Crash::ProcessOnly } else { Crash::LosesUnsynced };
            // Ends what its tasks left behind, too.
            sim.crash(name(node));
            self.after_death(node, crash, shared);
            self.later(now, 50, 3_000, Remedy::Restart(node));
        }
    }

    fn remedy(&mut self, remedy: &Remedy, sim: &mut Sim<'_>, shared: &Shared) {
        shared.lock().note(&format!("remedy: {remedy:?}"));
        match remedy {
            Remedy::Restart(node) => {
                self.down[*node] = false;
                if self.flipped.as_ref().is_some_and(|bit| !bit.is_there(&self.machines[bit.node].disk)) {
                    self.flipped = None;
                }
                if self.flipped.as_ref().is_some_and(|bit| bit.node == *node) {
                    self.must_refuse = Some(*node);
                }
                sim.bounce(name(*node));
            }
            Remedy::Repair(a, b) => sim.repair(a.as_str(), b.as_str()),
            Remedy::Release(a, b) => sim.release(a.as_str(), b.as_str()),
            Remedy::Calm(a, b) => {
                sim.set_link_max_message_latency(a.as_str(), b.as_str(), LATENCY_MAX);
                sim.set_link_fail_rate(a.as_str(), b.as_str(), 0.0);
                sim.repair(a.as_str(), b.as_str());
            }
            Remedy::FastDisk(node) => {
                let seed = self.chance.number();
                self.machines[*node].disk.slow_syncs(SYNC_FAST.0, SYNC_FAST.1, seed);
            }
            Remedy::Room(node) => self.machines[*node].disk.limit_bytes(None),
        }
    }

    /// Whether everybody who can run does.
    pub fn all_run(&self, shared: &Shared) -> bool {
        let shared = shared.lock();
        (0..self.machines.len()).all(|node| shared.runs(node))
    }
}

/// Of a link that nothing is wrong with.
pub const LATENCY_MAX: Duration = Duration::from_millis(4);

fn note(shared: &Shared, counted: &'static str, what: &str) {
    let mut shared = shared.lock();
    shared.count(counted);
    shared.note(what);
}
