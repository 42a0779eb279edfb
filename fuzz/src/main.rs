//! One program with all targets: `FUZZ_TARGET=name` chooses. `fuzz/run` builds it with coverage and starts it.
//!
//! A target reads what a stranger can send, and asserts what has to be so whatever that was. Panics, assertions,
//! overflows, more than a second and more than 512 MiB are findings.
#![no_main]

mod documents;
mod targets;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

static TARGET: OnceLock<fn(&[u8])> = OnceLock::new();

fuzz_target!(
    init: {
        let name = std::env::var("FUZZ_TARGET").unwrap_or_default();
        let found = targets::ALL.iter().find(|(known, _)| *known == name);
        let Some((_, target)) = found else {
            // Asked for no target: says which there are.
            for (known, _) in targets::ALL {
                println!("{known}");
            }
            std::process::exit(i32::from(!name.is_empty()));
        };
        TARGET.set(*target).expect("set once");
    },
    |bytes: &[u8]| {
        if let Some(target) = TARGET.get() {
            target(bytes);
        }
    }
);
