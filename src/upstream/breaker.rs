//! Whether somebody who keeps failing is asked at all. A pure state machine: time and chance are arguments.
//!
//! Closed, until five failures follow each other or half of the last twenty were failures; then open, for a second at
//! first and a minute at most; then one probe at a time, whose answer closes it or opens it again. A probe has a lease:
//! one that never reports, whatever became of it, is replaced. What reports late reports about another time, and is
//! not listened to.

use std::time::Duration;

use tokio::time::Instant;

/// How many of the last answers are looked at.
const WINDOW: u32 = 20;
/// For how long it opens the first time; it doubles.
const FIRST: Duration = Duration::from_secs(1);
/// The longest that it is open.
pub(super) const LONGEST: Duration = Duration::from_secs(60);

/// What became of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// An answer came, and be it a refusal.
    Alive,
    /// No answer, or one that says that it is failing; and for how long, if it says so.
    Failed {
        /// What its `Retry-After` says.
        wait: Option<Duration>,
    },
    /// Nobody waited for the answer: it says nothing about who was asked.
    Unknown,
}

/// When to open.
#[derive(Clone, Copy, Debug)]
pub(super) struct Policy {
    /// After so many failures in a row.
    pub(super) in_a_row: u32,
    /// How long a probe may take before it counts as lost.
    pub(super) lease: Duration,
}

/// The right to ask once. It is of one generation: what the breaker has learnt since, it does not unsay.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    generation: u64,
}

/// The state of one who is asked.
#[derive(Debug)]
pub(super) struct Breaker {
    policy: Policy,
    state: State,
    /// Counts the states and the probes.
    generation: u64,
    /// How often it has opened since it was last closed.
    trips: u32,
}

#[derive(Debug)]
enum State {
    Closed(Window),
    Open { until: Instant },
    Probing { until: Instant },
}

/// The last answers: a bit each, set for a failure.
#[derive(Debug, Default)]
struct Window {
    failures: u32,
    length: u32,
    in_a_row: u32,
}

impl Window {
    fn push(&mut self, failed: bool) {
        self.failures = (self.failures << 1 | u32::from(failed)) & ((1 << WINDOW) - 1);
        self.length = (self.length + 1).min(WINDOW);
        self.in_a_row = if failed { self.in_a_row + 1 } else { 0 };
    }

    fn is_too_much(&self, policy: Policy) -> bool {
        self.in_a_row >= policy.in_a_row || (self.length == WINDOW && self.failures.count_ones() * 2 >= WINDOW)
    }
}

impl Breaker {
    pub(super) fn new(policy: Policy) -> Self {
        Self {
            policy,
            state: State::Closed(Window::default()),
            generation: 0,
            trips: 0,
        }
    }

    /// The right to ask; or how long nobody has it.
    pub(super) fn admit(&mut self, now: Instant) -> Result<Ticket, Duration> {
        match self.state {
            State::Closed(_) => {}
            State::Open { until } | State::Probing { until } if now < until => return Err(until - now),
            // Its time is over, or its probe is lost.
            State::Open { .. } | State::Probing { .. } => self.enter(State::Probing {
                until: now + self.policy.lease,
            }),
        }
        Ok(Ticket {
            generation: self.generation,
        })
    }

    /// Says what became of a question. True if nobody is asked from now on.
    pub(super) fn report(&mut self, ticket: Ticket, verdict: Verdict, now: Instant, random: u64) -> bool {
        if ticket.generation != self.generation {
            return false;
        }
        match (&mut self.state, verdict) {
            (State::Closed(window), Verdict::Alive) => window.push(false),
            (State::Closed(_), Verdict::Failed { wait }) => return self.fail(wait, now, random),
            (State::Probing { .. }, Verdict::Alive) => {
                self.trips = 0;
                self.enter(State::Closed(Window::default()));
            }
            (State::Probing { .. }, Verdict::Failed { wait }) => {
                self.open(wait, now, random);
                return true;
            }
            // The next one may try at once.
            (State::Probing { .. }, Verdict::Unknown) => self.enter(State::Open { until: now }),
            (State::Closed(_), Verdict::Unknown) | (State::Open { .. }, _) => {}
        }
        false
    }

    /// A failure after an answer had begun well: a body that broke off. True if nobody is asked from now on.
    pub(super) fn fail(&mut self, wait: Option<Duration>, now: Instant, random: u64) -> bool {
        let State::Closed(window) = &mut self.state else {
            return false;
        };
        window.push(true);
        if !window.is_too_much(self.policy) {
            return false;
        }
        self.open(wait, now, random);
        true
    }

    /// Opens: by the clock of the last failures, with chance in it so that not all come back at once, and not before
    /// the upstream wants to be asked.
    pub(super) fn open(&mut self, wait: Option<Duration>, now: Instant, random: u64) {
        let longest = (FIRST * 2_u32.pow(self.trips.min(6))).min(LONGEST);
        let millis = u64::try_from(longest.as_millis()).unwrap_or(u64::MAX);
        let pause = longest / 2 + Duration::from_millis(random % (millis / 2 + 1));
        self.trips = self.trips.saturating_add(1);
        self.enter(State::Open {
            until: now + pause.max(wait.unwrap_or_default().min(LONGEST)),
        });
    }

    /// Whether everybody may ask.
    #[cfg(test)]
    const fn is_closed(&self) -> bool {
        matches!(self.state, State::Closed(_))
    }

    fn enter(&mut self, state: State) {
        self.state = state;
        self.generation += 1;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LEASE: Duration = Duration::from_secs(20);
    const FAILED: Verdict = Verdict::Failed { wait: None };

    fn breaker(in_a_row: u32) -> Breaker {
        Breaker::new(Policy { in_a_row, lease: LEASE })
    }

    fn ask(breaker: &mut Breaker, verdict: Verdict, now: Instant) -> bool {
        let ticket = breaker.admit(now).expect("a ticket");
        breaker.report(ticket, verdict, now, 0)
    }

    #[test]
    fn five_in_a_row_open_it_and_one_answer_closes_it() {
        let (mut breaker, now) = (breaker(5), Instant::now());
        for _ in 0..4 {
            assert!(!ask(&mut breaker, FAILED, now));
        }
        ask(&mut breaker, Verdict::Alive, now);
        for _ in 0..4 {
            assert!(!ask(&mut breaker, FAILED, now));
        }
        assert!(ask(&mut breaker, FAILED, now), "it opens");
        let wait = breaker.admit(now).expect_err("open");
        assert!(wait >= FIRST / 2 && wait <= FIRST, "{wait:?}");
        let then = now + FIRST;
        let probe = breaker.admit(then).expect("a probe");
        assert!(breaker.admit(then).is_err(), "one at a time");
        breaker.report(probe, Verdict::Alive, then, 0);
        assert!(breaker.is_closed());
    }

    #[test]
    fn half_of_the_last_twenty_open_it() {
        let (mut breaker, now) = (breaker(5), Instant::now());
        for turn in 0..19 {
            let verdict = if turn % 2 == 0 { FAILED } else { Verdict::Alive };
            assert!(!ask(&mut breaker, verdict, now), "{turn}");
        }
        assert!(ask(&mut breaker, FAILED, now));
    }

    #[test]
    fn it_stays_open_longer_each_time_and_as_long_as_it_is_told() {
        let (mut breaker, mut now) = (breaker(1), Instant::now());
        let mut waits = Vec::new();
        for _ in 0..9 {
            let ticket = breaker.admit(now).expect("a ticket");
            breaker.report(ticket, FAILED, now, u64::MAX);
            let wait = breaker.admit(now).expect_err("open");
            waits.push(wait);
            now += wait;
        }
        assert!(
            waits.is_sorted() && waits[8] <= LONGEST && waits[8] >= LONGEST / 2,
            "{waits:?}"
        );
        let told = |seconds| Verdict::Failed {
            wait: Some(Duration::from_secs(seconds)),
        };
        for (seconds, most) in [(59, 60), (9999, 60)] {
            let mut breaker = self::breaker(1);
            ask(&mut breaker, told(seconds), now);
            let wait = breaker.admit(now).expect_err("open");
            assert!(wait.as_secs() >= seconds.min(60) && wait.as_secs() <= most, "{wait:?}");
        }
    }

    #[test]
    fn what_reports_late_is_not_listened_to() {
        let (mut breaker, now) = (breaker(1), Instant::now());
        let early = breaker.admit(now).expect("a ticket");
        let late = breaker.admit(now).expect("a ticket");
        breaker.report(early, FAILED, now, 0);
        breaker.report(late, Verdict::Alive, now, 0);
        assert!(breaker.admit(now).is_err(), "an answer of before does not close it");
        let lost = breaker.admit(now + FIRST).expect("a probe");
        let next = breaker.admit(now + FIRST + LEASE).expect("the lost one is replaced");
        breaker.report(lost, Verdict::Alive, now + FIRST + LEASE, 0);
        assert!(!breaker.is_closed());
        breaker.report(next, Verdict::Alive, now + FIRST + LEASE, 0);
        assert!(breaker.is_closed());
    }

    /// Something that happens to a breaker.
    #[derive(Clone, Debug)]
    enum Event {
        /// Somebody wants to ask.
        Ask,
        /// One of those who ask ends like this. A cancel and a panic are both a guard that is dropped.
        End(usize, Verdict),
        /// One of those who ask is never heard of again.
        Lose(usize),
        /// A body breaks off.
        BreakOff,
        /// Time passes, also a lot of it at once.
        Pass(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        let verdict = prop_oneof![
            Just(Verdict::Alive),
            proptest::option::of(0..200_u64).prop_map(|wait| Verdict::Failed {
                wait: wait.map(Duration::from_secs),
            }),
            Just(FAILED),
            Just(Verdict::Unknown),
        ];
        prop_oneof![
            4 => Just(Event::Ask),
            4 => (any::<usize>(), verdict).prop_map(|(who, verdict)| Event::End(who, verdict)),
            1 => any::<usize>().prop_map(Event::Lose),
            1 => Just(Event::BreakOff),
            3 => (0..3000_u64).prop_map(Event::Pass),
            1 => (0..100_000_000_u64).prop_map(Event::Pass),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(10_000))]

        #[test]
        fn f17_no_schedule_wedges_it_or_lets_two_probes_out(
            in_a_row in 1..6_u32,
            events in proptest::collection::vec(event(), 0..60),
            random: u64,
        ) {
            let mut breaker = breaker(in_a_row);
            let mut now = Instant::now();
            let mut tickets: Vec<Ticket> = Vec::new();
            // The probe that is out, and until when it has its lease.
            let mut probe: Option<(Ticket, Instant)> = None;
            for event in events {
                match event {
                    Event::Ask => {
                        let was_closed = breaker.is_closed();
                        if let Ok(ticket) = breaker.admit(now) {
                            if !was_closed {
                                prop_assert!(probe.is_none_or(|(_, until)| until <= now), "two probes");
                                probe = Some((ticket, now + LEASE));
                            }
                            tickets.push(ticket);
                        }
                    }
                    Event::End(who, verdict) if !tickets.is_empty() => {
                        let ticket = tickets.swap_remove(who % tickets.len());
                        let was_closed = breaker.is_closed();
                        breaker.report(ticket, verdict, now, random);
                        let is_probe = probe.is_some_and(|(known, _)| known == ticket);
                        if is_probe {
                            probe = None;
                        }
                        prop_assert!(was_closed || is_probe || !breaker.is_closed(), "closed by a bystander");
                    }
                    Event::Lose(who) if !tickets.is_empty() => {
                        tickets.swap_remove(who % tickets.len());
                    }
                    Event::BreakOff => {
                        breaker.fail(None, now, random);
                    }
                    Event::Pass(millis) => now += Duration::from_millis(millis),
                    Event::End(..) | Event::Lose(_) => {}
                }
            }
            // Whatever happened: who is told to wait waits that long and no longer, and one answer ends it.
            if let Err(wait) = breaker.admit(now) {
                prop_assert!(wait <= LONGEST.max(LEASE), "{wait:?}");
                now += wait;
                let ticket = breaker.admit(now);
                prop_assert!(ticket.is_ok(), "wedged");
                breaker.report(ticket.expect("checked"), Verdict::Alive, now, random);
                prop_assert!(breaker.is_closed());
            } else {
                // It is closed, or this is the probe, which nobody need wait for longer than its lease.
                prop_assert!(breaker.admit(now).is_ok() || breaker.admit(now + LEASE).is_ok());
            }
        }
    }
}
