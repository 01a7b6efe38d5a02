use super::*;
use TaskState::{Accepted, Cancelled, Dispatched, Expired, Failed, Queued, Refused, Skipped, Uploaded, Verified};
use proptest::prelude::*;

const MINUTE: Duration = Duration::from_secs(60);

fn facts(state: TaskState) -> TaskFacts {
    TaskFacts {
        state,
        attempt: u8::from(state != Queued),
        max_attempts: 3,
        work: Work::UploadOne,
        presence: Presence::Online,
        method_listed: Some(true),
        agent_started_ago: Some(60 * MINUTE),
        said: None,
        time_up: false,
        time_left: 60 * MINUTE,
        retry_delay: Duration::from_secs(5),
        retry_reasons: Reasons::EVERY,
    }
}

/// A decision in a few letters, so that the table below can be read.
fn word(decision: Decision) -> String {
    match decision {
        Decision::Move { to, reason: Some(reason) } => format!("{to} {reason}"),
        Decision::Move { to, reason: None } => to.to_string(),
        Decision::Retry { reason } => format!("retry {reason}"),
        Decision::Look => "look".into(),
        Decision::Ignore { why } => format!("- {}", why.as_str()),
    }
}

/// Every event × every state that is not final.
#[rustfmt::skip]
const TABLE: &[(Event, [&str; 4])] = &[
    //                                                  queued                                dispatched                      accepted                            uploaded
    (Event::Answered(Answer::Accepted),                 ["- not_dispatched",                  "accepted",                     "- already_known",                  "- being_judged"]),
    (Event::Answered(Answer::Result),                   ["- not_dispatched",                  "retry answer_malformed",       "- already_known",                  "- being_judged"]),
    (Event::Answered(Answer::Malformed),                ["- not_dispatched",                  "retry answer_malformed",       "- already_known",                  "- being_judged"]),
    (Event::Answered(Answer::Status(302)),              ["- not_dispatched",                  "retry answer_malformed",       "- already_known",                  "- being_judged"]),
    (Event::Answered(Answer::Status(400)),              ["- not_dispatched",                  "refused request_refused",      "- already_known",                  "- being_judged"]),
    (Event::Answered(Answer::Status(404)),              ["- not_dispatched",                  "refused request_refused",      "- already_known",                  "- being_judged"]),
    (Event::Answered(Answer::Status(429)),              ["- not_dispatched",                  "retry device_error",           "- already_known",                  "- being_judged"]),
    (Event::Answered(Answer::Status(500)),              ["- not_dispatched",                  "retry device_error",           "- already_known",                  "- being_judged"]),
    (Event::Answered(Answer::Status(504)),              ["- not_dispatched",                  "retry device_error",           "- already_known",                  "- being_judged"]),
    (Event::Answered(Answer::Status(505)),              ["- not_dispatched",                  "refused protocol_unsupported", "- already_known",                  "- being_judged"]),
    (Event::StatusReported(TaskStatus::NotStarted),     ["- not_dispatched",                  "accepted",                     "- already_known",                  "- being_judged"]),
    (Event::StatusReported(TaskStatus::Running),        ["- not_dispatched",                  "accepted",                     "- already_known",                  "- being_judged"]),
    (Event::StatusReported(TaskStatus::Completed),      ["- not_dispatched",                  "look",                         "look",                             "- being_judged"]),
    (Event::StatusReported(TaskStatus::Unknown),        ["- not_dispatched",                  "look",                         "look",                             "- being_judged"]),
    (Event::StatusReported(TaskStatus::Failed),         ["- not_dispatched",                  "retry upload_failed",          "retry upload_failed",              "- being_judged"]),
    (Event::StatusReported(TaskStatus::Cancelled),      ["- not_dispatched",                  "retry upload_cancelled",       "retry upload_cancelled",           "- being_judged"]),
    (Event::ObjectsFound,                               ["- not_dispatched",                  "uploaded",                     "uploaded",                         "- being_judged"]),
    (Event::NothingFound { begun: false },              ["- not_dispatched",                  "- still_waiting",              "- still_waiting",                  "retry upload_missing"]),
    (Event::NothingFound { begun: true },               ["- not_dispatched",                  "- still_waiting",              "- still_waiting",                  "retry upload_missing"]),
    (Event::Judged(Verdict::Complete, Reason::Collected), ["- not_dispatched",                "look",                         "look",                             "verified collected"]),
    (Event::Judged(Verdict::Partial, Reason::CollectedPartial), ["- not_dispatched",          "look",                         "look",                             "verified collected_partial"]),
    (Event::Judged(Verdict::Empty, Reason::UploadEmpty), ["- not_dispatched",                 "look",                         "look",                             "retry upload_empty"]),
    (Event::Judged(Verdict::Damaged, Reason::UploadTruncated), ["- not_dispatched",           "look",                         "look",                             "retry upload_truncated"]),
    (Event::Judged(Verdict::Damaged, Reason::UploadUnsafe), ["- not_dispatched",              "look",                         "look",                             "failed upload_unsafe"]),
    (Event::Judged(Verdict::Damaged, Reason::UploadTooLarge), ["- not_dispatched",            "look",                         "look",                             "failed upload_too_large"]),
    (Event::Judged(Verdict::Damaged, Reason::LandingUnavailable), ["- not_dispatched",        "look",                         "look",                             "look"]),
    (Event::AttemptTimeUp,                              ["- not_dispatched",                  "look",                         "look",                             "look"]),
    (Event::DeadlinePassed,                             ["expired deadline_passed",           "look",                         "look",                             "- being_judged"]),
    (Event::CancelRequested,                            ["cancelled cancelled_by_user",       "cancelled cancelled_by_user",  "cancelled cancelled_by_user",      "cancelled cancelled_by_user"]),
    (Event::ConsentMissing,                             ["skipped consent_missing",           "cancelled consent_missing",    "cancelled consent_missing",        "cancelled consent_missing"]),
    (Event::MethodMissing,                              ["skipped method_unsupported",        "- still_waiting",              "- still_waiting",                  "- being_judged"]),
    (Event::ProtocolMismatch,                           ["skipped protocol_unsupported",      "refused protocol_unsupported", "- still_waiting",                  "- being_judged"]),
    (Event::DeviceGone,                                 ["skipped device_unknown",            "- still_waiting",              "- still_waiting",                  "- being_judged"]),
];

#[test]
fn every_event_in_every_state() {
    for (event, expected) in TABLE {
        for (state, expected) in [Queued, Dispatched, Accepted, Uploaded].into_iter().zip(expected) {
            assert_eq!(word(decide(&facts(state), event)), *expected, "{event:?} while {state}");
        }
        for state in TaskState::ALL.into_iter().filter(|state| state.is_final()) {
            assert_eq!(word(decide(&facts(state), event)), "- final", "{event:?} while {state}");
        }
    }
}

#[test]
fn the_table_has_every_kind_of_event() {
    let kinds: std::collections::HashSet<_> = TABLE.iter().map(|(event, _)| std::mem::discriminant(event)).collect();
    assert_eq!(kinds.len(), 12, "a new event needs its rows");
}

#[test]
fn a_400_says_no_unless_the_agent_has_just_started() {
    let no = Event::Answered(Answer::Status(400));
    let with = |started: Option<u64>, listed, attempt| {
        let ago = started.map(Duration::from_secs);
        word(decide(&TaskFacts { agent_started_ago: ago, method_listed: listed, attempt, ..facts(Dispatched) }, &no))
    };
    assert_eq!(with(Some(59), Some(true), 1), "retry request_refused");
    assert_eq!(with(Some(60), Some(true), 1), "refused request_refused");
    assert_eq!(with(Some(59), Some(true), 3), "refused request_refused", "no attempt remains");
    assert_eq!(with(Some(60), Some(false), 1), "refused method_unsupported");
    assert_eq!(with(Some(59), Some(false), 1), "retry request_refused");
    assert_eq!(with(None, None, 1), "refused request_refused");
    let missing = TaskFacts { method_listed: Some(false), ..facts(Dispatched) };
    assert_eq!(word(decide(&missing, &Event::MethodMissing)), "refused method_unsupported");
}

#[test]
fn silence_ends_with_the_reason_that_fits() {
    let after = |state, said, begun| word(decide(&TaskFacts { said, time_up: true, ..facts(state) }, &Event::NothingFound { begun }));
    assert_eq!(after(Dispatched, None, false), "retry no_answer");
    assert_eq!(after(Dispatched, None, true), "retry upload_unfinished");
    assert_eq!(after(Accepted, None, false), "retry sas_expired");
    assert_eq!(after(Accepted, Some(TaskStatus::Running), true), "retry upload_unfinished");
    assert_eq!(after(Accepted, Some(TaskStatus::Completed), true), "retry upload_missing");
    assert_eq!(after(Accepted, Some(TaskStatus::Failed), false), "retry upload_failed");
    assert_eq!(after(Accepted, Some(TaskStatus::Cancelled), false), "retry upload_cancelled");
    let lost = TaskFacts { said: Some(TaskStatus::Unknown), ..facts(Accepted) };
    assert_eq!(word(decide(&lost, &Event::NothingFound { begun: false })), "retry task_lost");
    let liar = TaskFacts { said: Some(TaskStatus::Completed), ..facts(Accepted) };
    assert_eq!(word(decide(&liar, &Event::NothingFound { begun: false })), "retry upload_missing");
    let late = TaskFacts { time_up: true, ..facts(Accepted) };
    assert_eq!(word(decide(&late, &Event::StatusReported(TaskStatus::Failed))), "retry sas_expired");
    let forgotten_but_there = TaskFacts { said: Some(TaskStatus::Unknown), ..facts(Accepted) };
    assert_eq!(word(decide(&forgotten_but_there, &Event::ObjectsFound)), "uploaded");
}

#[test]
fn what_comes_late_counts_until_the_next_attempt_is_sent() {
    let put_back = |work| TaskFacts { attempt: 1, work, ..facts(Queued) };
    assert_eq!(word(decide(&put_back(Work::UploadOne), &Event::ObjectsFound)), "uploaded");
    let complete = Event::Judged(Verdict::Complete, Reason::Collected);
    assert_eq!(word(decide(&put_back(Work::Answer), &complete)), "verified collected");
    assert_eq!(word(decide(&put_back(Work::UploadOne), &complete)), "- not_dispatched", "objects go through uploaded");
    let damaged = Event::Judged(Verdict::Damaged, Reason::AnswerMalformed);
    assert_eq!(word(decide(&put_back(Work::Answer), &damaged)), "- not_dispatched", "the next attempt decides");
    assert_eq!(word(decide(&facts(Queued), &complete)), "- not_dispatched", "never sent");
}

#[test]
fn only_the_reasons_a_collection_names_are_repeated() {
    let only_silence = TaskFacts { retry_reasons: Reasons::of(&[Reason::NoAnswer]), ..facts(Dispatched) };
    assert_eq!(word(decide(&only_silence, &Event::Answered(Answer::Status(500)))), "failed device_error");
    let silent = TaskFacts { time_up: true, ..only_silence };
    assert_eq!(word(decide(&silent, &Event::NothingFound { begun: false })), "retry no_answer");
    let started = TaskFacts { agent_started_ago: Some(Duration::ZERO), ..only_silence };
    assert_eq!(word(decide(&started, &Event::Answered(Answer::Status(400)))), "refused request_refused");
}

#[test]
fn objects_of_several_modules_may_still_grow() {
    let found = |said, time_up| word(decide(&TaskFacts { work: Work::UploadMany, said, time_up, ..facts(Accepted) }, &Event::ObjectsFound));
    assert_eq!(found(None, false), "- still_waiting");
    assert_eq!(found(Some(TaskStatus::Running), false), "- still_waiting");
    assert_eq!(found(Some(TaskStatus::Running), true), "uploaded");
    for done in [TaskStatus::Completed, TaskStatus::Failed, TaskStatus::Unknown] {
        assert_eq!(found(Some(done), false), "uploaded");
    }
}

#[test]
fn the_answer_is_the_result_of_a_ping_and_of_get_module_logs() {
    let with = |work, event| word(decide(&TaskFacts { work, ..facts(Dispatched) }, &event));
    assert_eq!(with(Work::Ping, Event::Answered(Answer::Result)), "verified answered");
    assert_eq!(with(Work::Ping, Event::AttemptTimeUp), "retry no_answer");
    assert_eq!(with(Work::Ping, Event::DeadlinePassed), "expired deadline_passed");
    assert_eq!(with(Work::Ping, Event::Answered(Answer::Accepted)), "retry answer_malformed");
    assert_eq!(with(Work::Answer, Event::Answered(Answer::Result)), "look");
    assert_eq!(with(Work::Answer, Event::Judged(Verdict::Complete, Reason::Collected)), "verified collected");
    assert_eq!(
        with(Work::Answer, Event::Judged(Verdict::Empty, Reason::UploadEmpty)),
        "failed upload_empty",
        "no line fits, and none will"
    );
    assert_eq!(with(Work::Answer, Event::Judged(Verdict::Empty, Reason::UploadMissing)), "failed upload_missing", "no module fits");
    assert_eq!(with(Work::Answer, Event::Judged(Verdict::Damaged, Reason::LandingUnavailable)), "look");
}

#[test]
fn the_last_attempt_and_the_last_minute_end_it() {
    let error = Event::Answered(Answer::Status(500));
    assert_eq!(word(decide(&TaskFacts { attempt: 2, ..facts(Dispatched) }, &error)), "retry device_error");
    assert_eq!(word(decide(&TaskFacts { attempt: 3, ..facts(Dispatched) }, &error)), "failed device_error");
    let left = |time_left| word(decide(&TaskFacts { time_left, ..facts(Dispatched) }, &error));
    let enough = Duration::from_secs(5) + MIN_ATTEMPT;
    assert_eq!(left(enough), "retry device_error");
    assert_eq!(left(enough - Duration::from_millis(1)), "failed device_error");
    let cut = TaskFacts { time_left: Duration::ZERO, ..facts(Accepted) };
    assert_eq!(word(decide(&cut, &Event::NothingFound { begun: true })), "expired deadline_passed");
    assert_eq!(word(decide(&TaskFacts { time_up: true, ..cut }, &Event::NothingFound { begun: true })), "failed upload_unfinished");
    let waiting = TaskFacts { presence: Presence::Offline, ..facts(Queued) };
    assert_eq!(word(decide(&waiting, &Event::DeadlinePassed)), "expired device_offline");
}

#[test]
fn a_verdict_that_contradicts_itself_still_ends_with_a_reason_of_its_family() {
    let nonsense = Event::Judged(Verdict::Damaged, Reason::Collected);
    assert_eq!(word(decide(&facts(Uploaded), &nonsense)), "failed upload_damaged");
}

#[test]
fn only_a_device_that_may_be_at_work_is_given_the_whole_time() {
    for reason in [Reason::NoAnswer, Reason::SasExpired, Reason::AnswerMalformed] {
        assert!(may_still_be_at_work(reason), "{reason}");
    }
    for reason in [Reason::UploadFailed, Reason::TaskLost, Reason::UploadMissing, Reason::DeviceError, Reason::UploadTruncated] {
        assert!(!may_still_be_at_work(reason), "{reason}");
    }
}

fn any_status() -> impl Strategy<Value = TaskStatus> {
    use TaskStatus::{Cancelled, Completed, Failed, NotStarted, Running, Unknown};
    prop::sample::select(vec![NotStarted, Running, Completed, Failed, Cancelled, Unknown])
}

fn any_event() -> impl Strategy<Value = Event> {
    let verdict = prop::sample::select(vec![Verdict::Complete, Verdict::Partial, Verdict::Empty, Verdict::Damaged]);
    prop_oneof![
        8 => prop_oneof![Just(Answer::Accepted), Just(Answer::Result), Just(Answer::Malformed), (100u16..700).prop_map(Answer::Status)].prop_map(Event::Answered),
        8 => any_status().prop_map(Event::StatusReported),
        4 => Just(Event::ObjectsFound),
        4 => any::<bool>().prop_map(|begun| Event::NothingFound { begun }),
        4 => (verdict, prop::sample::select(Reason::ALL)).prop_map(|(verdict, reason)| Event::Judged(verdict, reason)),
        2 => Just(Event::AttemptTimeUp),
        1 => prop::sample::select(vec![Event::DeadlinePassed, Event::CancelRequested, Event::ConsentMissing, Event::MethodMissing, Event::ProtocolMismatch, Event::DeviceGone]),
    ]
}

/// One happening: a claim when `None`.
fn any_life() -> impl Strategy<Value = Vec<(Option<Event>, bool)>> {
    prop::collection::vec((prop::option::weighted(0.7, any_event()), prop::bool::weighted(0.15)), 0..80)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, ..ProptestConfig::default() })]

    /// Many tasks live random lives side by side; at every instant the counters add up, and each life obeys the table.
    #[test]
    fn random_lives_obey_the_rules(
        lives in prop::collection::vec(any_life(), 1..6),
        max_attempts in 1u8..5,
        work in prop::sample::select(vec![Work::UploadOne, Work::UploadMany, Work::Answer, Work::Ping]),
        presence in prop::sample::select(vec![Presence::Online, Presence::Offline, Presence::Unknown]),
        method_listed: Option<bool>,
        started_s in prop::option::of(0u64..120),
        time_left_s in 0u64..7200,
    ) {
        let new = TaskFacts {
            max_attempts, work, presence, method_listed,
            agent_started_ago: started_s.map(Duration::from_secs),
            time_left: Duration::from_secs(time_left_s),
            ..facts(Queued)
        };
        let mut tasks = vec![(new, None::<Reason>); lives.len()];
        let longest = lives.iter().map(Vec::len).max().unwrap_or(0);
        for step in 0..longest {
            for ((task, reason), life) in tasks.iter_mut().zip(&lives) {
                let Some((event, time_up)) = life.get(step) else { continue };
                let before = task.state;
                let Some(event) = event else {
                    if before == Queued && task.attempt < task.max_attempts {
                        *task = TaskFacts { state: Dispatched, attempt: task.attempt + 1, said: None, time_up: false, ..*task };
                    }
                    continue;
                };
                task.time_up |= *time_up && before != Queued;
                if let Event::StatusReported(status) = event {
                    task.said = Some(*status);
                }
                let decision = decide(task, event);
                if let Some(to) = decision.to() {
                    prop_assert!(task::may(before, to), "{:?} led {} to {}", event, before, to);
                    task.state = to;
                }
                match decision {
                    Decision::Retry { reason } => {
                        prop_assert!(task.attempt < max_attempts, "no attempt remained");
                        prop_assert!(task::retryable(reason) || reason == Reason::RequestRefused);
                    }
                    Decision::Move { to, reason: why } => {
                        prop_assert_eq!(why.is_some(), to.is_final());
                        prop_assert!(why.is_none_or(|why| task::reasons(to).contains(&why)), "{} because {:?}", to, why);
                        *reason = why;
                    }
                    Decision::Look | Decision::Ignore { .. } => prop_assert_eq!(task.state, before),
                }
                prop_assert!(!before.is_final() || task.state == before, "{} was final", before);
                prop_assert!(task.attempt <= max_attempts);
                prop_assert!(task.attempt > 0 || matches!(task.state, Queued | Cancelled | Skipped | Expired), "{} without an attempt", task.state);
                prop_assert!(!matches!(task.state, Refused | Failed | Verified) || task.attempt > 0);
            }
            let counters = crate::counters::tally(tasks.len() as u64, tasks.iter().map(|(task, _)| (task.state, presence == Presence::Offline, 1)));
            prop_assert!(crate::counters::adds_up(&counters));
        }
        for (task, reason) in &tasks {
            prop_assert_eq!(task.state.is_final(), reason.is_some());
        }
    }

    /// Whatever happened before: once the attempt's time is over and a look found nothing, the task is with the device no more.
    #[test]
    fn an_attempt_always_ends(said in prop::option::of(any_status()), begun: bool, accepted: bool, attempt in 1u8..=3, time_left_s in 0u64..100) {
        let state = if accepted { Accepted } else { Dispatched };
        let task = TaskFacts { said, attempt, time_up: true, time_left: Duration::from_secs(time_left_s), ..facts(state) };
        let to = decide(&task, &Event::NothingFound { begun }).to();
        prop_assert!(matches!(to, Some(Queued | Failed)), "{:?}", to);
    }
}
