//! The engine's own thread: what is due is done without a nudge, and it ends with its source.

use std::time::Duration;

use tokio::sync::mpsc;

use super::*;
use crate::sync::{EngineHandle, spawn};

async fn until(handle: &EngineHandle<Watched>, condition: fn(&Tested) -> bool) {
    for _ in 0..1000 {
        if handle.ask(condition).await.expect("the engine runs") {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("what was waited for did not happen");
}

#[tokio::test]
async fn the_thread_syncs_retries_gives_back_and_ends() {
    let mut tables = Watched::new(ROOMY);
    tables.memory.fail_after(2);
    let (events, received) = mpsc::channel(16);
    let (handle, thread) = spawn(engine_over(tables), received).unwrap();
    let endpoints_of_web = |addresses: &[&str]| slice("web-a", "web", &["http"], 8080, addresses);
    let send = async |change: Change| events.send(Event::Change(change)).await.unwrap();

    send(service("web", &["10.96.0.1"], &[("http", 80)])).await;
    send(endpoints_of_web(&["10.0.0.1", "10.0.0.2"])).await;
    assert!(
        handle
            .ask(|engine| engine.dataplane.memory.applied() == 0)
            .await
            .unwrap()
    );
    for kind in Kind::ALL {
        events.send(Event::Listed(kind)).await.unwrap();
    }
    // The first attempt fails; nothing more arrives, and still there is a second.
    until(&handle, |engine| engine.syncs == 1).await;
    assert_eq!(handle.ask(|engine| engine.failures).await, Some(1));

    send(endpoints_of_web(&["10.0.0.1"])).await;
    until(&handle, |engine| {
        engine.syncs == 2 && counts(engine).backends == 1
    })
    .await;

    // What has arrived is applied before the end.
    send(endpoints_of_web(&["10.0.0.3"])).await;
    drop(events);
    tokio::task::spawn_blocking(move || thread.join().unwrap())
        .await
        .unwrap();
    assert_eq!(
        handle.ask(|engine| engine.syncs).await,
        None,
        "it has ended"
    );
}
