//! What it costs to plan for ten thousand partitions, and to find a key's leader among them.

use std::hint::black_box;

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use evenkeel_gateway::planner::{PlanRequest, Policy, plan};
use evenkeel_gateway::topology::{PartitionView, Topology};
use evenkeel_protocol::{Epoch, NodeId, PartitionId, partition_of};

#[path = "../tests/planner/world.rs"]
#[allow(dead_code, clippy::unwrap_used, reason = "shared with the planner's tests, which use all of it")]
mod world;

const BROKERS: u64 = 50;
const PARTITIONS: u32 = 10_000;

/// One broker has returned and leads nothing.
fn planning(criterion: &mut Criterion) {
    let mut cluster = world::round_robin(BROKERS, PARTITIONS, 3, 1_000);
    for partition in cluster.partitions.iter_mut().filter(|p| p.leader == Some(NodeId(7))) {
        partition.leader = partition.replicas.iter().find(|r| r.priority.0 == 2).map(|r| r.node);
    }
    let mut benchmarks = criterion.benchmark_group("plan_10000_partitions");
    benchmarks.sample_size(20);
    for policy in [Policy::Primary, Policy::EvenCount, Policy::Records] {
        let request = PlanRequest { policy, ..PlanRequest::default() };
        benchmarks.bench_function(format!("{policy:?}"), |bencher| {
            bencher.iter(|| plan(black_box(&cluster), black_box(&request)));
        });
    }
    benchmarks.finish();
}

fn routing(criterion: &mut Criterion) {
    let view = |id: u32| {
        let leader = NodeId(u64::from(id) % BROKERS);
        PartitionView {
            id: PartitionId(id),
            leader: Some(leader),
            epoch: Some(Epoch { term: 1, node: leader }),
            primary: Some(leader),
            replicas: vec![leader],
            records: 0,
            counted: true,
        }
    };
    let topology = Topology {
        partitions_count: PARTITIONS,
        partitions: (1..=PARTITIONS).map(view).collect(),
        ..Topology::default()
    };
    criterion.bench_function("route_a_key", |bencher| {
        let mut number = 0u64;
        bencher.iter_batched(
            || {
                number += 1;
                format!("customer-{number}").into_bytes()
            },
            |key| {
                let partition = partition_of(black_box(&key), topology.partitions_count);
                topology.partition(partition).and_then(|view| view.leader)
            },
            BatchSize::SmallInput,
        );
    });
}

criterion_group!(benches, planning, routing);
criterion_main!(benches);
