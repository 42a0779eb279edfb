//! How large the tests are, by one variable: `ENTREPOT_TESTS`.
//!
//! Without it they have the size that every change has to pass. `full` is the size that is named beside it in
//! `docs/guarantees.md`, for a release build on a machine that has nothing else to do. A number is for what is counted and
//! takes long: so many kills, power cuts, or passes over the store; whatever has none of these stays as it is.
#![allow(dead_code, reason = "not everybody who includes it counts something")]

/// What was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Size {
    Gate,
    Full,
    Count(u32),
}

impl Size {
    pub(crate) fn asked() -> Self {
        let Some(text) = std::env::var_os("ENTREPOT_TESTS") else {
            return Self::Gate;
        };
        match text.to_str() {
            Some("") => Self::Gate,
            Some("full") => Self::Full,
            text => match text.and_then(|text| text.parse().ok()) {
                Some(count) if count > 0 => Self::Count(count),
                _ => panic!("ENTREPOT_TESTS is neither `full` nor a number, but {text:?}"),
            },
        }
    }
}

pub(crate) fn is_full() -> bool {
    Size::asked() == Size::Full
}
