//! Measurements: one thread, blocking sockets, nothing between two operations but the clock.

use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream, UdpSocket};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::net::sockopt;
use rustix::time::{ClockId, clock_gettime};

use super::bench_server::{BULK, CONNECT, ECHO, REQUESTS};
use super::errno;
use super::histogram::Histogram;
use super::job::{Job, Stop, lock};
use super::measure::{BenchKind, BenchReport, BenchSpec};

/// How long an answer may take before it counts as a failure.
const PATIENCE: Duration = Duration::from_secs(2);

pub(super) fn start(spec: BenchSpec) -> io::Result<Job> {
    let report = Arc::new(Mutex::new(BenchReport::default()));
    let measured = Arc::clone(&report);
    Job::start(
        1,
        move |_, stop| *lock(&report) = Bench::new(&spec, stop).run(),
        move || serde_json::to_value(&*lock(&measured)),
    )
}

struct Bench<'a> {
    spec: &'a BenchSpec,
    stop: &'a Stop,
    start: Instant,
    /// The thread's CPU time at the start.
    cpu: Duration,
    report: BenchReport,
    latency: Histogram,
}

impl<'a> Bench<'a> {
    fn new(spec: &'a BenchSpec, stop: &'a Stop) -> Self {
        Self {
            spec,
            stop,
            start: Instant::now(),
            cpu: cpu_time(ClockId::ThreadCPUTime),
            report: BenchReport::default(),
            latency: Histogram::default(),
        }
    }

    fn run(mut self) -> BenchReport {
        let result = match self.spec.kind {
            BenchKind::Connect => {
                self.connects();
                Ok(())
            }
            BenchKind::RequestResponse => self.requests(),
            BenchKind::Bulk => self.bulk(),
            BenchKind::UdpRequestResponse => self.datagrams(true),
            BenchKind::UdpFlood => self.datagrams(false),
        };
        if let Err(error) = result {
            self.failed(&error);
        }
        BenchReport {
            elapsed: self.start.elapsed(),
            cpu: cpu_time(ClockId::ThreadCPUTime).saturating_sub(self.cpu),
            p50: self.latency.quantile(0.5),
            p99: self.latency.quantile(0.99),
            ..self.report
        }
    }

    /// Time counts from now on: opening the sockets is not what is measured.
    fn begin(&mut self) {
        self.start = Instant::now();
        self.cpu = cpu_time(ClockId::ThreadCPUTime);
    }

    fn goes_on(&self) -> bool {
        !self.stop.is_set()
            && self.start.elapsed() < self.spec.duration
            && self
                .spec
                .operations
                .is_none_or(|most| self.report.operations < most)
    }

    fn done(&mut self, since: Instant, bytes: usize) {
        let took = since.elapsed();
        self.latency.record(took);
        self.report.max = self.report.max.max(took);
        self.sent(bytes);
    }

    fn sent(&mut self, bytes: usize) {
        self.report.operations += 1;
        self.report.bytes += bytes as u64;
    }

    fn failed(&mut self, error: &io::Error) {
        *self.report.failed.entry(errno::name(error)).or_default() += 1;
    }

    fn connects(&mut self) {
        while self.goes_on() {
            let since = Instant::now();
            match connect_once(self.spec) {
                Ok(()) => self.done(since, 1),
                Err(error) => self.failed(&error),
            }
        }
    }

    fn requests(&mut self) -> io::Result<()> {
        let mut stream = self.stream(REQUESTS)?;
        let request = vec![REQUESTS; self.spec.size.max(1)];
        let mut answer = request.clone();
        self.begin();
        while self.goes_on() {
            let since = Instant::now();
            stream.write_all(&request)?;
            stream.read_exact(&mut answer)?;
            self.done(since, request.len());
        }
        Ok(())
    }

    fn bulk(&mut self) -> io::Result<()> {
        let mut stream = self.stream(BULK)?;
        let chunk = vec![BULK; self.spec.size.max(1)];
        self.begin();
        while self.goes_on() {
            stream.write_all(&chunk)?;
            self.sent(chunk.len());
        }
        // What is still on its way counts as sent only once it has arrived.
        stream.shutdown(Shutdown::Write)?;
        stream.read_exact(&mut [0])
    }

    fn datagrams(&mut self, answered: bool) -> io::Result<()> {
        let sockets = (0..self.spec.flows.max(1))
            .map(|_| udp(self.spec.to))
            .collect::<io::Result<Vec<_>>>()?;
        let mut datagram = vec![0; self.spec.size.max(1)];
        if answered {
            datagram[0] = ECHO;
        }
        let mut answer = vec![0; datagram.len()];
        let mut turn = sockets.iter().cycle();
        self.begin();
        while let Some(socket) = turn.next()
            && self.goes_on()
        {
            let since = Instant::now();
            let result = socket.send(&datagram).and_then(|_| match answered {
                true => socket.recv(&mut answer).map(drop),
                false => Ok(()),
            });
            match result {
                Ok(()) if answered => self.done(since, datagram.len()),
                Ok(()) => self.sent(datagram.len()),
                Err(error) => self.failed(&error),
            }
        }
        Ok(())
    }

    /// A connection whose first byte tells the server what follows.
    fn stream(&self, kind: u8) -> io::Result<TcpStream> {
        let mut stream = TcpStream::connect(self.spec.to)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.write_all(&[kind])?;
        Ok(stream)
    }
}

fn connect_once(spec: &BenchSpec) -> io::Result<()> {
    let mut stream = TcpStream::connect(spec.to)?;
    if spec.reset_on_close {
        sockopt::set_socket_linger(&stream, Some(Duration::ZERO))?;
    }
    stream.write_all(&[CONNECT])?;
    stream.read_exact(&mut [0])
}

fn udp(to: SocketAddr) -> io::Result<UdpSocket> {
    let any: SocketAddr = match to {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    Ok(socket)
}

/// CPU time of the calling thread or process, by its clock.
pub(super) fn cpu_time(clock: ClockId) -> Duration {
    let time = clock_gettime(clock);
    // A CPU clock starts at zero and its nanoseconds are below a billion.
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec as u32)
}
