//! What each system answers while its upstream is in trouble. One column a system, one row a trouble.

use std::time::Duration;

use crate::client::{How, Pulled, get, get_as};
use crate::system::{Kind, System, blob, manifest};
use crate::upstream::{Image, Link, Upstream};
use crate::{LAYER, MIB};

const ROWS: [&str; 10] = [
    "refuses connections: cached tag",
    "refuses connections: cached layer",
    "refuses connections: tag never seen",
    "accepts and hangs: cached tag, first and second time",
    "accepts and hangs: tag never seen",
    "cuts a 64 MiB layer in the middle, once",
    "… fetched again of it",
    "sends wrong bytes",
    "… and afterwards, when it sends the right ones",
    "first client leaves at 10 %: the next one, and bytes fetched ÷ layer",
];

pub(crate) async fn table() {
    let mut columns = Vec::new();
    for kind in Kind::ALL {
        columns.push(column(kind).await);
    }
    println!("\n## Upstream in trouble\n");
    println!("| | {} |", Kind::ALL.map(Kind::name).join(" | "));
    println!("| --- | --- | --- | --- |");
    for (number, row) in ROWS.iter().enumerate() {
        let cells: Vec<&str> = columns
            .iter()
            .map(|column| column.get(number).map_or("–", String::as_str))
            .collect();
        println!("| {row} | {} |", cells.join(" | "));
    }
}

/// Status, what the cache says of itself, and the time.
fn told(pulled: &Pulled) -> String {
    if pulled.gave_up {
        return format!("> {} s", crate::client::PATIENCE.as_secs());
    }
    let status = match pulled.status {
        0 => "cut".to_owned(),
        status => status.to_string(),
    };
    let cache = pulled
        .header("x-cache")
        .map(|word| format!(" {word}"))
        .unwrap_or_default();
    format!("{status}{cache}, {} ms", pulled.total.as_millis())
}

fn outcome(pulled: &Pulled, image: &Image) -> &'static str {
    match (&pulled.digest, pulled.is_whole(LAYER)) {
        (Some(digest), true) if *digest == image.layer => "whole and right",
        (_, true) => "**whole and wrong**",
        _ if pulled.status != 200 => "an error",
        _ => "cut off",
    }
}

async fn column(kind: Kind) -> Vec<String> {
    let upstream = Upstream::start(Link::NEAR).await;
    let mut cells = Vec::new();
    let Some(system) = System::start(kind, &upstream).await else {
        return cells;
    };
    let hashed = How {
        hashed: true,
        ..How::default()
    };
    let known = upstream.put_image("known", MIB, 7);
    let tag = manifest("known");
    let layer = blob(&known.layer);
    let never = manifest("never");
    for path in [&tag, &layer] {
        assert_eq!(get(system.address, path, &[]).await.status, 200, "{}", system.name());
    }
    upstream.quiet().await;
    // Past the second that nginx keeps what it has.
    tokio::time::sleep(Duration::from_millis(1500)).await;

    upstream.stop().await;
    for path in [&tag, &layer, &never] {
        cells.push(told(&get(system.address, path, &[]).await));
    }
    upstream.resume().await;
    // Well again, until the system has noticed.
    for _ in 0..200 {
        let fresh = get(system.address, &tag, &[]).await;
        if fresh.status == 200 && fresh.header("x-cache") != Some("STALE") {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    tokio::time::sleep(Duration::from_millis(1500)).await;

    upstream.hang(true);
    let (first, second) = (
        get(system.address, &tag, &[]).await,
        get(system.address, &tag, &[]).await,
    );
    cells.push(format!("{}; {}", told(&first), told(&second)));
    cells.push(told(&get(system.address, &never, &[]).await));
    system.stop().await;

    // Bodies, over the same line as the other tables, by a system that does not remember the trouble.
    let upstream = Upstream::start(Link::FAR).await;
    let Some(system) = System::start(kind, &upstream).await else {
        return cells;
    };
    let prepare = async |seed| {
        let image = upstream.put_image(&format!("v{seed}"), LAYER, seed);
        let manifest = manifest(&image.tag);
        assert_eq!(
            get(system.address, &manifest, &[]).await.status,
            200,
            "{}",
            system.name()
        );
        let path = blob(&image.layer);
        (image, path)
    };
    upstream.cut_once(LAYER / 2);
    let before = upstream.sent();
    let (image, path) = prepare(11).await;
    let pulled = get_as(system.address, &path, &[], hashed).await;
    upstream.quiet().await;
    let fetched = percent_again(upstream.sent() - before);
    cells.push(outcome(&pulled, &image).to_owned());
    cells.push(if pulled.is_whole(LAYER) {
        fetched
    } else {
        "–".to_owned()
    });
    upstream.cut_once(0);

    upstream.lie(true);
    let (image, path) = prepare(12).await;
    cells.push(outcome(&get_as(system.address, &path, &[], hashed).await, &image).to_owned());
    upstream.quiet().await;
    upstream.lie(false);
    cells.push(outcome(&get_as(system.address, &path, &[], hashed).await, &image).to_owned());
    upstream.quiet().await;

    let before = upstream.sent();
    let (image, path) = prepare(13).await;
    let leaves = How {
        leave_at: Some(LAYER / 10),
        ..How::default()
    };
    get_as(system.address, &path, &[], leaves).await;
    let next = get_as(system.address, &path, &[], hashed).await;
    upstream.quiet().await;
    let times = (upstream.sent() - before) as f64 / LAYER as f64;
    cells.push(format!("{}, {times:.1}", outcome(&next, &image)));
    system.stop().await;
    cells
}

#[expect(clippy::cast_precision_loss, reason = "a percentage")]
fn percent_again(sent: u64) -> String {
    format!("{:.1} %", (sent as f64 / LAYER as f64 - 1.0) * 100.0)
}
