//! D3: no answer leaves before what it acknowledges would outlive a power cut, by the order of the calls alone.

use std::collections::HashMap;

use crate::caller::Door;
use crate::dice::{Dice, seed};
use crate::places::{Kills, Place as _, started};
use crate::promises::{CALLS, check};
use crate::strace::{Call, Strace, Trace};
use crate::support::size::is_full;
use crate::workload::{Crowd, Growth};
use crate::world::World;

/// Syncs without which something must be missed: of files that are moved to where they belong, and of the directories
/// that they are moved to, where nobody has synced those again.
fn needed(trace: &Trace, registry: &str) -> Vec<usize> {
    let is_sync = |call: &Call| matches!(call.name.as_str(), "fsync" | "fdatasync");
    let mut times: HashMap<&str, usize> = HashMap::new();
    for call in trace.calls.iter().filter(|call| is_sync(call)) {
        *times.entry(call.file().unwrap_or_default()).or_default() += 1;
    }
    let moved: HashMap<String, String> = trace
        .calls
        .iter()
        .filter(|call| call.name == "rename" && call.has_succeeded())
        .filter_map(|call| Some((call.texts().first()?.clone(), call.texts().get(1)?.clone())))
        .collect();
    let is_needed = |call: &Call| {
        let file = call.file().unwrap_or_default();
        // What a tag has meant is written durably too, and promised to nobody.
        let is_promised = |to: &String| to.starts_with(registry) && (to.ends_with("/link") || to.ends_with("/data"));
        let is_moved = moved.get(file).is_some_and(is_promised);
        let of_current = file.starts_with(registry) && file.ends_with("/current");
        let of_blob = file
            .strip_prefix(registry)
            .is_some_and(|file| file.split('/').count() == 5);
        times[file] == 1 && (is_moved || of_current || (of_blob && file.contains("/blobs/")))
    };
    let syncs = trace.calls.iter().enumerate().filter(|(_, call)| is_sync(call));
    syncs
        .filter(|(_, call)| is_needed(call))
        .map(|(index, _)| index)
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d03_no_answer_leaves_before_what_it_promises_is_durable() {
    let wanted = if is_full() { 10_000 } else { 1_000 };
    let mut dice = Dice::new(seed("D3"));
    let world = World::new().await;
    let place = Kills::new(&world);
    let registry = started(&place, &world).await;
    let data = place.data(&registry);
    let options = ["-s", "500", "-e", CALLS].map(str::to_owned);
    let strace = Strace::attach(&registry, &data.with_file_name("trace"), &options);
    let crowd = Crowd {
        alone: 8,
        together: 0,
        pulling: 0,
        collecting: 0,
        kept: usize::MAX,
        growth: Growth::Free,
    };
    let mut clients = world.crowd(&Door::of(&registry), &crowd, &mut dice);
    world.end_after(wanted);
    while let Some(client) = clients.join_next().await {
        client.expect("it has its answers");
    }
    registry.kill();
    let trace = strace.end();
    let tree = data.join("docker/registry/v2").display().to_string();
    let report = check(&trace, None, &tree, &world);
    let shown = report.complaints.iter().take(5).cloned().collect::<Vec<_>>().join("\n");
    assert!(
        report.complaints.is_empty(),
        "{} complaints:\n{shown}",
        report.complaints.len()
    );
    assert!(
        report.promises as u64 >= wanted,
        "only {} promises were seen",
        report.promises
    );

    // What it would say if one sync had not been made.
    let needed = needed(&trace, &tree);
    assert!(needed.len() > 100, "{} syncs", needed.len());
    for _ in 0..10 {
        let one = *dice.pick(&needed).expect("some");
        let report = check(&trace, Some(one), &tree, &world);
        assert!(!report.complaints.is_empty(), "not missed: {:?}", trace.calls[one]);
    }
    eprintln!(
        "D3: {} promises, each kept; {} calls",
        report.promises,
        trace.calls.len()
    );
}
