//! The thread that ends connections, so that nothing else waits for it.

use std::{
    collections::HashSet,
    io,
    path::PathBuf,
    sync::mpsc,
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use super::{Ended, Endpoint, end_everywhere};

/// Listing the sockets of a namespace costs the same half a millisecond whether it has any, and a node has a hundred pods. So
/// the thread rests after each round this many times as long as that took, and collects what comes meanwhile: the first
/// deletion is dealt with at once, and a thousand in a row take a tenth of one CPU.
const REST: u32 = 9;
const LONGEST_REST: Duration = Duration::from_secs(5);

/// Ends connections in the background. When it is dropped, what it was asked for by then is still done.
#[derive(Debug)]
pub struct Reaper {
    queue: Option<mpsc::Sender<Vec<Endpoint>>>,
    thread: Option<JoinHandle<()>>,
}

impl Reaper {
    /// Starts the thread. `namespaces` is asked each time for the network namespaces to look into besides the agent's own;
    /// `done` is told each time what became of it, on that thread.
    ///
    /// # Errors
    /// When there can be no more threads.
    pub fn start(
        namespaces: impl Fn() -> Vec<PathBuf> + Send + 'static,
        done: impl Fn(&Ended) + Send + 'static,
    ) -> io::Result<Self> {
        let (queue, endpoints) = mpsc::channel::<Vec<Endpoint>>();
        let thread = thread::Builder::new()
            .name("weir-sockets".to_owned())
            .spawn(move || {
                let mut told = false;
                let mut rested = Instant::now();
                while let Ok(first) = endpoints.recv() {
                    let mut gone: HashSet<Endpoint> = first.into_iter().collect();
                    while let Ok(more) =
                        endpoints.recv_timeout(rested.saturating_duration_since(Instant::now()))
                    {
                        gone.extend(more);
                    }
                    let start = Instant::now();
                    let ended = end_everywhere(&gone, namespaces());
                    rested = Instant::now() + (start.elapsed() * REST).min(LONGEST_REST);
                    tell(&ended, gone.len(), &mut told);
                    done(&ended);
                }
            })?;
        Ok(Self {
            queue: Some(queue),
            thread: Some(thread),
        })
    }

    /// Asks for the end of every connection to these endpoints, which must be gone for good, and waits for nothing: see the
    /// [module](super).
    pub fn end(&self, endpoints: Vec<Endpoint>) {
        if let Some(queue) = &self.queue
            && !endpoints.is_empty()
            && queue.send(endpoints).is_err()
        {
            tracing::error!(
                "the thread that ends connections to deleted endpoints has stopped: they end by themselves, after minutes"
            );
        }
    }
}

impl Drop for Reaper {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread that ends connections to deleted endpoints panicked");
        }
    }
}

/// That the kernel cannot do it is said once.
fn tell(ended: &Ended, endpoints: usize, told: &mut bool) {
    if ended.unsupported && !*told {
        *told = true;
        tracing::warn!(
            "this kernel cannot end sockets from outside (CONFIG_INET_DIAG_DESTROY): connections to deleted endpoints end \
             when TCP gives up, after minutes"
        );
    }
    for failure in &ended.failures {
        tracing::warn!("cannot end connections to deleted endpoints in {failure}");
    }
    if ended.tcp + ended.udp > 0 {
        tracing::info!(
            tcp = ended.tcp,
            udp = ended.udp,
            endpoints,
            "ended connections to deleted endpoints"
        );
    }
}
