use super::{super::report::Report, *};

fn table(name: &str) -> TableName {
    ("s".to_owned(), name.to_owned())
}

#[test]
fn tables_have_their_turns_behind_the_initial_snapshot_and_a_request_is_taken_once() {
    let mut on_demand = OnDemand::default();
    let mut progress = Some(Progress::<()>::of(vec![table("a")]));
    on_demand.ask("1", vec![table("b"), table("b")], Some("n > 1"));
    assert!(on_demand.has_taken("1") && !on_demand.has_taken("2"));
    on_demand.begin_next(&mut progress);
    assert_eq!(progress.as_ref().unwrap().todo, [table("a")]);
    progress.as_mut().unwrap().finish_table();
    for _ in 0..2 {
        on_demand.begin_next(&mut progress);
        on_demand.begin_next(&mut progress);
        let current = progress.as_mut().unwrap();
        assert_eq!((current.todo.clone(), current.asked.is_some()), (vec![table("b")], true));
        assert!(current.is_unread(("s", "b")) && !current.will_be_whole(("s", "b")));
        current.finish_table();
        assert!(current.asked.is_none());
    }
    on_demand.tidy(&mut progress);
    assert_eq!((progress, on_demand.has_taken("1")), (None, true));
}

#[test]
fn a_start_asks_once_for_what_is_not_read_anyway() {
    let mut on_demand = OnDemand::default();
    let mut progress = Some(Progress::<()>::of(vec![table("a")]));
    let all = || vec![table("a"), table("b")];
    assert!(on_demand.ask_at_start(all(), progress.as_ref()));
    assert!(!on_demand.ask_at_start(all(), progress.as_ref()));
    progress.as_mut().unwrap().finish_table();
    on_demand.begin_next(&mut progress);
    assert!(!on_demand.ask_at_start(all(), progress.as_ref()), "it goes on");
    assert!(!progress.as_ref().unwrap().has_initial());
    assert!(on_demand.refuse_current(&mut progress, "no key"));
    on_demand.tidy(&mut progress);
    assert!(on_demand.ask_at_start(all(), progress.as_ref()));
    assert_eq!(on_demand.waiting.len(), 2);
    assert!(on_demand.refused.is_empty(), "said anew");
}

#[test]
fn a_pause_is_of_something_and_a_cancel_spares_the_initial_snapshot() {
    let mut on_demand = OnDemand::default();
    let mut progress = None::<Progress<()>>;
    on_demand.pause("1", progress.as_ref());
    assert!(!on_demand.is_paused());
    on_demand.ask("2", vec![table("a"), table("b")], None);
    on_demand.pause("3", progress.as_ref());
    on_demand.begin_next(&mut progress);
    assert!(on_demand.is_paused() && progress.is_none());
    on_demand.resume("4");
    on_demand.begin_next(&mut progress);
    assert!(on_demand.refuse_current(&mut progress, "no key"));
    assert_eq!(Report::of(progress.as_ref(), &on_demand, None).refused[0].tables, ["s.a"]);
    on_demand.begin_next(&mut progress);
    progress.as_mut().unwrap().todo.push(table("joined"));
    on_demand.pause("5", progress.as_ref());
    assert!(on_demand.cancel("6", &mut progress));
    assert_eq!(progress.as_ref().unwrap().todo, [table("joined")]);
    assert!(on_demand.is_paused() && !on_demand.cancel("7", &mut progress));
    on_demand.limit("8", Some(0), progress.as_ref());
    assert_eq!(on_demand.rows_per_second(5), None);
    on_demand.limit("9", Some(7), progress.as_ref());
    assert_eq!(on_demand.rows_per_second(5), NonZeroU32::new(7));
    progress.as_mut().unwrap().finish_table();
    on_demand.tidy(&mut progress);
    assert!(!on_demand.is_paused());
    assert_eq!(on_demand.rows_per_second(5), NonZeroU32::new(5));
}

#[test]
fn a_signal_is_followed_and_takes_no_request() {
    let (mut on_demand, mut progress) = (OnDemand::default(), None::<Progress<()>>);
    let tables = ["a", "b", "c"].map(|name| (table(name), None)).to_vec();
    let refused = vec![("s.x".to_owned(), "no such table".to_owned())];
    assert!(!on_demand.follow("signal 1", Order::Read { tables, refused }, &mut progress));
    assert_eq!(on_demand.refused[0].tables, ["s.x"]);
    on_demand.begin_next(&mut progress);
    assert!(!on_demand.follow("signal 2", Order::Pause, &mut progress) && on_demand.is_paused());
    assert!(!on_demand.follow("signal 3", Order::Resume, &mut progress) && !on_demand.is_paused());
    let of = |names: [&'static str; 2]| {
        Order::Stop(Box::new(move |(_, name): &TableName| names.contains(&name.as_str())))
    };
    assert!(!on_demand.follow("signal 4", of(["b", "x"]), &mut progress));
    assert!(on_demand.follow("signal 5", of(["a", "b"]), &mut progress));
    on_demand.begin_next(&mut progress);
    assert_eq!(progress.unwrap().todo, [table("c")]);
    assert!(on_demand.taken.is_empty());
}

#[test]
fn requests_and_what_was_asked_survive_storing() {
    let request = SnapshotRequest {
        id: "x".into(),
        asked_at_ms: 1,
        action: SnapshotAction::Start { tables: vec!["s.a".into()], condition: Some("n > 1".into()) },
    };
    let text = serde_json::to_string(&request).unwrap();
    assert_eq!(text, r#"{"id":"x","asked_at_ms":1,"action":"start","tables":["s.a"],"where":"n > 1"}"#);
    assert_eq!(serde_json::from_str::<SnapshotRequest>(&text).unwrap(), request);
    let mut on_demand = OnDemand::default();
    assert!(on_demand.is_empty() && serde_json::to_string(&on_demand).unwrap() == "{}");
    on_demand.ask("x", vec![table("a")], Some("n > 1"));
    let stored = serde_json::to_string(&on_demand).unwrap();
    assert_eq!(serde_json::from_str::<OnDemand>(&stored).unwrap(), on_demand);
    let old: Progress<()> = serde_json::from_str(r#"{"todo":[["s","a"]],"last_key":["7"]}"#).unwrap();
    assert!(old.asked.is_none() && old.will_be_whole(("s", "a")));
}
