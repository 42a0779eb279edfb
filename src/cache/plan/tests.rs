use proptest::prelude::*;

use super::*;

const STANDSTILL: Duration = Duration::from_secs(2);
const MIB: u64 = 1 << 20;

#[test]
fn segments_are_given_out_in_order_and_not_far_ahead() {
    let now = Instant::now();
    let mut plan = Plan::new(Some(1000 * MIB), 0, 4);
    let mut at = 0;
    for id in 0..8 {
        let claim = plan.take(now).expect("within the window");
        assert_eq!((claim.id, claim.at, claim.end), (id, at, at + 16 * MIB));
        at = claim.end;
    }
    assert_eq!(plan.take(now), None, "as far as the window goes");
    plan.wrote(0, 16 * MIB, now);
    plan.release(0);
    assert_eq!(plan.frontier(), 16 * MIB);
    assert_eq!(plan.take(now).map(|claim| claim.at), Some(at));
}

#[test]
fn one_connection_goes_on_by_itself_and_stops_at_what_another_has() {
    let now = Instant::now();
    let mut plan = Plan::new(Some(64 * MIB), 0, 4);
    let first = plan.take(now).expect("work");
    let second = plan.help(now, Some(STANDSTILL)).expect("work").claim;
    assert_eq!((first.end, second.at), (16 * MIB, 16 * MIB));
    plan.wrote(first.id, 16 * MIB, now);
    assert!(!plan.extend(first.id), "the next byte is another one's");
    plan.release(second.id);
    assert!(plan.extend(first.id));
    assert_eq!(plan.left(first.id), 16 * MIB);

    let mut unknown = Plan::new(None, 0, 4);
    assert!(!unknown.is_worth_parts());
    let only = unknown.take(now).expect("work");
    unknown.wrote(only.id, 16 * MIB, now);
    assert!(unknown.extend(only.id));
    unknown.ends_here();
    assert!(unknown.is_complete());
}

#[test]
fn what_failed_is_the_first_to_be_taken_up() {
    let now = Instant::now();
    let mut plan = Plan::new(Some(64 * MIB), 0, 4);
    let claims: Vec<Claim> = (0..3).filter_map(|_| plan.take(now)).collect();
    plan.wrote(claims[0].id, 5 * MIB, now);
    plan.release(claims[0].id);
    let again = plan.help(now, Some(STANDSTILL)).expect("work").claim;
    assert_eq!((again.at, again.end), (5 * MIB, 16 * MIB));
}

#[test]
fn the_last_piece_is_split_and_one_that_stands_still_is_taken_away() {
    let now = Instant::now();
    let mut plan = Plan::new(Some(16 * MIB), 0, 1);
    let first = plan.take(now).expect("work");
    let half = plan.help(now, Some(STANDSTILL)).expect("a half");
    assert_eq!(
        (half.claim.at, half.claim.end, half.instead_of),
        (8 * MIB, 16 * MIB, None)
    );
    assert_eq!(plan.left(first.id), 8 * MIB);
    plan.wrote(half.claim.id, 8 * MIB, now);
    plan.release(half.claim.id);
    plan.wrote(first.id, 5 * MIB, now);
    assert_eq!(plan.help(now, Some(STANDSTILL)), None, "too little to be split");
    assert_eq!(plan.help(now + STANDSTILL, None), None);
    let next = plan.help(now + STANDSTILL, Some(STANDSTILL)).expect("it stands still");
    assert_eq!((next.claim.at, next.claim.end), (5 * MIB, 8 * MIB));
    assert_eq!(next.instead_of, Some(first.id));
    assert_eq!(plan.left(first.id), 0);
}

#[test]
fn one_that_is_far_slower_than_the_others_does_not_hold_them_up() {
    let now = Instant::now();
    let later = now + STANDSTILL;
    let mut plan = Plan::new(Some(32 * MIB), 0, 2);
    let slow = plan.take(now).expect("work");
    let fast = plan.take(now).expect("work");
    plan.wrote(fast.id, 16 * MIB, now + STANDSTILL / 2);
    plan.release(fast.id);
    plan.wrote(slow.id, MIB, later);
    assert_eq!(
        plan.help(later, None).map(|next| next.instead_of),
        Some(None),
        "it is split"
    );
    plan.wrote(slow.id, MIB, later);
    let next = plan.help(later, Some(STANDSTILL)).expect("all of it");
    assert_eq!((next.claim.at, next.instead_of), (2 * MIB, Some(slow.id)));
}

/// One step of several connections that are fast, slow, cut or gone.
#[derive(Clone, Debug)]
enum Step {
    Help,
    Write(usize, u64),
    Fail(usize),
    Wait,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => Just(Step::Help),
        8 => (0..8_usize, 1..9 * MIB).prop_map(|(which, bytes)| Step::Write(which, bytes)),
        1 => (0..8_usize).prop_map(Step::Fail),
        1 => Just(Step::Wait),
    ];
    proptest::collection::vec(step, 1..120)
}

proptest! {
    /// Whatever happens: no byte is fetched by two at once, none is forgotten, and it comes to an end.
    #[test]
    fn every_byte_is_fetched_once_and_by_one(
        total in 1..200 * MIB, known in 0..50 * MIB, parts in 1..9_usize, steps in steps()
    ) {
        let known = known.min(total);
        let mut plan = Plan::new(Some(total), known, parts);
        let mut now = Instant::now();
        let mut amount = known;
        let act = |plan: &mut Plan, step: &Step, now: &mut Instant, amount: &mut u64| {
            let ids: Vec<Id> = plan.claims.keys().copied().collect();
            match *step {
                Step::Help if ids.len() < parts => { plan.help(*now, Some(STANDSTILL)); }
                Step::Write(which, bytes) if !ids.is_empty() => {
                    let id = ids[which % ids.len()];
                    let bytes = bytes.min(plan.left(id));
                    plan.wrote(id, bytes, *now);
                    *amount += bytes;
                    if plan.left(id) == 0 && !plan.extend(id) {
                        plan.release(id);
                    }
                }
                Step::Fail(which) if !ids.is_empty() => plan.release(ids[which % ids.len()]),
                Step::Help | Step::Write(..) | Step::Fail(_) => {}
                Step::Wait => *now += STANDSTILL,
            }
        };
        for step in &steps {
            act(&mut plan, step, &mut now, &mut amount);
            let mut held: Vec<(u64, u64)> = plan.claims.values().map(|held| (held.at, held.end)).collect();
            held.extend(plan.here.iter().map(|(start, end)| (*start, *end)));
            held.sort_unstable();
            prop_assert!(held.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{held:?}");
            prop_assert!(held.iter().all(|(start, end)| start <= end && *end <= total));
            prop_assert_eq!(plan.amount(), amount);
        }
        for _ in 0..2000 {
            if plan.is_complete() {
                break;
            }
            act(&mut plan, &Step::Help, &mut now, &mut amount);
            act(&mut plan, &Step::Write(0, 9 * MIB), &mut now, &mut amount);
        }
        prop_assert!(plan.is_complete(), "{plan:?}");
        prop_assert_eq!(amount, total);
    }
}
