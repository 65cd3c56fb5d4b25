use super::*;

fn runner(held: f32, need: f32) -> Runner {
    Runner {
        held_bytes: held * 1e6,
        growth: [need * 1e6; STEPS],
        need_bytes: need * 1e6,
        worst_bytes: need * 1e6,
        jump_bytes: 1e6,
        settled: need == 0.0,
        moves: true,
        paused: false,
        idle: false,
        outgrown_bytes: 0.0,
    }
}

fn room_of(room: f32) -> Room {
    Room {
        bytes: room * 1e6,
        for_ending_bytes: 2e6,
    }
}

fn turns(room: f32, runners: &[Runner]) -> Vec<Turn> {
    plan(room_of(room), runners, None).turns
}

#[test]
fn as_many_as_fit_go_on_in_their_order() {
    let turns = turns(
        50.0,
        &[runner(10.0, 30.0), runner(10.0, 30.0), runner(1.0, 15.0)],
    );
    // The third fits where the second does not.
    assert_eq!(turns, [Turn::Keep(0.0), Turn::Hold, Turn::Keep(30e6)]);
}

#[test]
fn where_no_order_is_safe_the_one_that_needs_least_goes_on() {
    let turns = turns(5.0, &[runner(10.0, 30.0), runner(10.0, 20.0)]);
    assert_eq!(turns, [Turn::Hold, Turn::Keep(0.0)]);
}

#[test]
fn who_needs_nothing_more_is_always_let_go() {
    let turns = turns(5.0, &[runner(10.0, 30.0), runner(40.0, 0.0)]);
    assert_eq!(turns[1], Turn::Free);
    // And then there is room for the first.
    assert_ne!(turns[0], Turn::Free);
}

#[test]
fn who_does_not_get_on_comes_after_the_others() {
    let mut idle = runner(10.0, 30.0);
    idle.moves = false;
    let turns = turns(40.0, &[idle, runner(10.0, 30.0)]);
    assert_eq!(turns[1], Turn::Keep(0.0));
    // But nobody takes what it needs to end after them.
    assert_eq!(turns[0], Turn::Keep(30e6));
}

#[test]
fn what_is_given_back_in_time_makes_room() {
    let mut ending = runner(40.0, 0.0);
    ending.growth = [-40e6; STEPS];
    ending.growth[0] = 0.0;
    let mut later = runner(10.0, 9.0);
    later.growth[0] = 5e6;
    later.growth[9] = 20e6;
    let turns = turns(10.0, &[ending, later, later]);
    assert_eq!(turns, [Turn::Free, Turn::Keep(0.0), Turn::Keep(5e6)]);
}

#[test]
fn who_was_polled_not_long_ago_may_be_about_to_end() {
    let stuck = |moves, idle| {
        let other = Runner {
            moves,
            idle,
            ..runner(10.0, 30.0)
        };
        let paused = Runner {
            paused: true,
            ..runner(10.0, 30.0)
        };
        plan(room_of(5.0), &[other, paused], None).stuck
    };
    assert_eq!(stuck(true, false), Stuck::No);
    assert_eq!(stuck(false, false), Stuck::ForNow);
    assert_eq!(stuck(false, true), Stuck::Yes);
}

#[test]
fn the_worst_need_of_the_first_stays_free() {
    let mut unknown = runner(2.0, 1.0);
    unknown.worst_bytes = 118e6;
    let mut other = runner(2.0, 1.0);
    other.worst_bytes = 150e6;
    let plan = plan(room_of(200.0), &[unknown, other], None);
    assert_eq!(plan.turns[1], Turn::Keep(118e6));
    assert_eq!(plan.newcomer, Turn::Keep(148e6));
    // If it can end before them, what they are expected to add.
    assert_eq!(plan.newcomer_least_bytes, 2e6);
}

/// It is polled all the time, and has added nothing for long.
fn stream(held: f32) -> Runner {
    Runner {
        idle: true,
        growth: [0.0; STEPS],
        ..runner(held, 0.0)
    }
}

#[test]
fn who_goes_on_without_end_hides_nobody_that_stands_still() {
    let paused = Runner {
        paused: true,
        ..runner(10.0, 30.0)
    };
    let ends = Runner {
        idle: false,
        ..stream(20.0)
    };
    let found = |others: &[Runner]| {
        let plan = plan(room_of(15.0), &[others, &[paused]].concat(), None);
        (plan.stuck, plan.alone_of)
    };
    assert_eq!(found(&[stream(20.0)]), (Stuck::Yes, Some(2)));
    assert_eq!(found(&[stream(20.0), ends]), (Stuck::No, None));
    assert_eq!(found(&[stream(20.0), paused]), (Stuck::Yes, None));
}

#[test]
fn what_a_stream_holds_is_not_taken_to_come_back() {
    let turns = |stream| turns(15.0, &[stream, runner(10.0, 10.0), runner(1.0, 30.0)]);
    // With the 35 of the first there would be room for the last as well.
    assert_eq!(turns(stream(35.0))[2], Turn::Hold);
    let ends = Runner {
        idle: false,
        growth: [-35e6; STEPS],
        ..stream(35.0)
    };
    assert_ne!(turns(ends)[2], Turn::Hold);
}

#[test]
fn where_no_order_is_safe_what_is_left_is_for_the_first() {
    let ending = |jump_bytes| Runner {
        need_bytes: 40e6,
        worst_bytes: 100e6,
        growth: [40e6; STEPS],
        jump_bytes,
        ..runner(10.0, 0.0)
    };
    let first = runner(100.0, 40.0);
    let found = turns(20.0, &[first, ending(1e6), ending(8e6)]);
    assert_eq!(found, [Turn::Keep(0.0), Turn::Ends, Turn::EndsLater]);
    // Where there is a safe one, it may be about to end as any other.
    let found = turns(200.0, &[first, ending(1e6), ending(8e6)]);
    assert_eq!(found[1..], [Turn::Ends, Turn::Ends]);
}
