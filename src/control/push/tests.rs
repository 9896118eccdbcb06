use super::*;
use crate::mesh::View;
use crate::rt::Published;
use crate::xds::generate;

fn revised(revision: u64) -> Revised {
    Revised {
        revision,
        world: Arc::new(World::default()),
    }
}

fn hub(world: &Published<Revised>, tasks: &Tasks) -> Hub {
    let options = HubOptions {
        views: Views::by(|_, _| View::default()),
        secrets: Arc::new(|_, _| Vec::new()),
        admit: Arc::new(|_, _, _| crate::control::attest::Verdict::Everything),
        roots: Arc::new(Arc::default),
        wall: Wall::fixed(1000),
    };
    Hub::start(options, world.reader(), tasks)
}

fn standing(acked: u64) -> Vec<Standing> {
    vec![Standing {
        kind: Kind::Route,
        sent: Some(acked),
        acked,
        waiting: false,
        resources: 1,
    }]
}

#[tokio::test(start_paused = true)]
async fn changes_that_come_together_are_pushed_once_and_none_waits_for_ever() {
    let (world, tasks) = (Published::new(revised(0)), Tasks::new());
    let hub = hub(&world, &tasks);
    let mut session = hub.connect(generate::node(Client::Meshctl), None, "delta");
    tokio::time::sleep(Duration::from_millis(1)).await;
    session.pushed.borrow_and_update();
    let started = crate::rt::now();
    for revision in 1..=3 {
        world.publish(revised(revision));
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    session.pushed.changed().await.unwrap();
    assert_eq!(session.pushed.borrow_and_update().revision, 3);
    assert!(started.elapsed() < Duration::from_millis(20));
    // A world that never rests is pushed all the same.
    let started = crate::rt::now();
    let restless = tokio::time::timeout(Duration::from_secs(1), async {
        for revision in 4.. {
            world.publish(revised(revision));
            tokio::time::sleep(Duration::from_millis(5)).await;
            if session.pushed.has_changed().unwrap() {
                break;
            }
        }
    });
    restless.await.unwrap();
    assert!(started.elapsed() <= PATIENCE + Duration::from_millis(10));
    tasks.end().await;
}

#[tokio::test(start_paused = true)]
async fn waiting_for_a_revision_tells_who_has_it_who_refused_and_who_left() {
    let (world, tasks) = (Published::new(revised(7)), Tasks::new());
    let hub = hub(&world, &tasks);
    let session = |name: &str| {
        let node = Node {
            id: name.to_owned(),
            name: name.to_owned(),
            ..generate::node(Client::Meshctl)
        };
        hub.connect(node, None, "delta")
    };
    let (good, bad, gone, slow) = (
        session("good"),
        session("bad"),
        session("gone"),
        session("slow"),
    );
    let since = crate::rt::now();
    let wait = hub.wait_acked(7, since, Duration::from_secs(1));
    let act = async {
        tokio::time::sleep(Duration::from_millis(30)).await;
        good.said(vec![Event::Acked(Kind::Route)], standing(7), 7, None);
        let refusal = Event::Nacked {
            kind: Kind::Route,
            reason: "no".to_owned(),
            resources: vec!["9080".to_owned()],
        };
        bad.said(vec![refusal], standing(6), 7, None);
        drop(gone);
    };
    let (verdict, ()) = tokio::join!(wait, act);
    let by_name: BTreeMap<_, _> = verdict.iter().map(|a| (a.name.as_str(), a)).collect();
    assert_eq!(by_name["good"].outcome, Outcome::Acknowledged);
    assert_eq!(by_name["good"].latency_ms, Some(30));
    assert_eq!(by_name["bad"].outcome, Outcome::Rejected);
    assert_eq!(by_name["gone"].outcome, Outcome::Disconnected);
    assert_eq!(by_name["slow"].outcome, Outcome::Pending);
    let status = hub.status();
    let bad = status.iter().find(|proxy| proxy.name == "bad").unwrap();
    assert!(!bad.synced);
    assert_eq!(bad.types[0].rejected.as_ref().unwrap().resources, ["9080"]);
    drop(slow);
    tasks.end().await;
}
