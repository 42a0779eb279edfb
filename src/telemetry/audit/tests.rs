use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Condvar, Mutex};

use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

/// A place to write to that can be stuck, and can be full.
#[derive(Clone, Default)]
struct Target(Arc<(Mutex<State>, Condvar)>);

#[derive(Default)]
struct State {
    written: Vec<u8>,
    stuck: bool,
    full: bool,
}

impl Target {
    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.0.0.lock().expect("not poisoned"));
        self.0.1.notify_all();
    }

    fn lines(&self) -> Vec<serde_json::Value> {
        let state = self.0.0.lock().expect("not poisoned");
        let text = String::from_utf8(state.written.clone()).expect("UTF-8");
        text.lines()
            .map(|line| serde_json::from_str(line).expect(line))
            .collect()
    }
}

impl Write for Target {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let state = self.0.0.lock().expect("not poisoned");
        let mut state = self.0.1.wait_while(state, |state| state.stuck).expect("not poisoned");
        if state.full {
            return Err(io::ErrorKind::StorageFull.into());
        }
        state.written.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn metrics() -> Arc<Metrics> {
    Arc::new(Metrics::new().expect("metrics"))
}

fn entry(reference: &str) -> Entry<'_> {
    Entry {
        request_id: Some("id"),
        who: Who {
            kind: "user",
            name: Some("ada"),
        },
        from: Some("192.0.2.7"),
        action: "push",
        repository: Some("local"),
        image: Some("team/app"),
        reference: Some(reference),
        outcome: Outcome::Allowed,
        status: Some(201),
        why: None,
    }
}

#[test]
fn a_line_says_who_did_what() {
    let text = String::from_utf8(line(entry("v1"), SystemTime::UNIX_EPOCH)).expect("UTF-8");
    assert_eq!(
        text,
        "{\"time\":\"1970-01-01T00:00:00Z\",\"request_id\":\"id\",\"who\":{\"kind\":\"user\",\"name\":\"ada\"},\
         \"from\":\"192.0.2.7\",\"action\":\"push\",\"repository\":\"local\",\"image\":\"team/app\",\
         \"reference\":\"v1\",\"outcome\":\"allowed\",\"status\":201}\n"
    );
}

#[test]
fn s07_a_line_is_one_line_whatever_is_in_it() {
    let hostile = "\r\n{\"outcome\":\"allowed\"}\u{1b}[2J\u{202e}\u{85}\u{2028}";
    let long = "é".repeat(LONGEST);
    let told = Entry {
        who: Who {
            kind: "unproven",
            name: Some(hostile),
        },
        why: Some(&long),
        ..entry(hostile)
    };
    let text = String::from_utf8(line(told, SystemTime::UNIX_EPOCH)).expect("UTF-8");
    assert_eq!(text.lines().count(), 1);
    assert!(
        text.chars()
            .rev()
            .skip(1)
            .all(|letter| !letter.is_control() && letter != '\u{202e}')
    );
    let read: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(read["who"]["name"], hostile);
    assert_eq!(read["why"].as_str().expect("a text").len(), LONGEST);
}

#[test]
fn a_target_that_is_stuck_holds_nobody_up_and_the_gap_is_told() {
    let (target, metrics) = (Target::default(), metrics());
    target.set(|state| state.stuck = true);
    let audit = Audit::start(target.clone(), false, &metrics).expect("a thread");
    let told = WAITING as u64 * 2;
    for number in 0..told {
        audit.tell(entry(&number.to_string()), SystemTime::now());
    }
    assert!(!audit.flush(Duration::from_millis(50)), "it is stuck");
    target.set(|state| state.stuck = false);
    assert!(audit.flush(PATIENCE));
    audit.tell(entry("last"), SystemTime::now());
    assert!(audit.flush(PATIENCE));
    let lines = target.lines();
    let gaps: Vec<&serde_json::Value> = lines.iter().filter(|line| line["action"] == "audit").collect();
    let text = String::from_utf8(metrics.render().expect("metrics")).expect("UTF-8");
    let lost = told + 1 - (lines.len() - gaps.len()) as u64;
    assert!(lost > 0);
    assert!(text.contains(&format!("entrepot_audit_lost_total {lost}\n")), "{lost}");
    let told: u64 = gaps
        .iter()
        .filter_map(|gap| gap["why"].as_str()?.split(' ').next()?.parse::<u64>().ok())
        .sum();
    assert_eq!(told, lost);
    assert_eq!(lines.last().expect("a line")["reference"], "last");
}

#[test]
fn a_target_that_fails_is_tried_again() {
    let (target, metrics) = (Target::default(), metrics());
    target.set(|state| state.full = true);
    let audit = Audit::start(target.clone(), false, &metrics).expect("a thread");
    audit.tell(entry("lost"), SystemTime::now());
    assert!(audit.flush(PATIENCE));
    target.set(|state| state.full = false);
    audit.tell(entry("kept"), SystemTime::now());
    assert!(audit.flush(PATIENCE));
    let lines = target.lines();
    assert_eq!(lines.len(), 2);
    assert_eq!(lines[0]["why"], "1 lines before this one are lost");
    assert_eq!(lines[1]["reference"], "kept");
}

#[test]
fn a_file_is_appended_to_and_is_ours_alone() {
    use std::os::unix::fs::PermissionsExt as _;

    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("audit.log");
    for round in ["one", "two"] {
        let audit = Audit::file(&path, true, &metrics()).expect("a file");
        assert!(audit.wants_pulls());
        audit.tell(entry(round), SystemTime::now());
        assert!(audit.flush(PATIENCE));
    }
    let text = std::fs::read_to_string(&path).expect("a file");
    assert_eq!(text.lines().count(), 2);
    let mode = std::fs::metadata(&path).expect("a file").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    assert!(Audit::file(directory.path(), false, &metrics()).is_err());
    assert!(!Audit::nowhere(&metrics()).wants_pulls());
}

/// The thread ends with the last who could tell it something: reloads leave none behind.
#[test]
fn nothing_is_left_running() {
    struct Told(Sender<()>);
    impl Write for Told {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    impl Drop for Told {
        fn drop(&mut self) {
            let _ = self.0.send(());
        }
    }
    let (told, ended): (_, Receiver<()>) = channel();
    let audit = Audit::start(Told(told), false, &metrics()).expect("a thread");
    let copy = audit.clone();
    drop(audit);
    copy.tell(entry("v1"), SystemTime::now());
    drop(copy);
    ended.recv_timeout(PATIENCE).expect("the thread ends");
}
