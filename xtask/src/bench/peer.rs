//! `cargo xtask bench --peer ganeti`: our daemon and the real one, on one real Ganeti cluster, in one run, with the same clients
//! and the same certificate. They take turns, so that whatever else this machine does meets both. What the master daemon takes by
//! itself for the same call is measured in turn with them.

#![expect(clippy::print_stdout, reason = "this is what the command is for")]

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use luxi::frame::{self, Reader};
use luxi::message;
use luxi::method::Method as Call;
use rapi::client::Client;
use rapi::input::Method;
use serde_json::{Value, json};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::load::{Connection, Measured, Request, Target, measure, ms};
use super::memory::Peak;
use super::table::{self, Bar, Table};
use crate::ganeti::{self, Ganeti};
use crate::guest::succeed;
use crate::server::{self, Place, Server};
use crate::system::transcripts::USERS;
use crate::{machine, oracle};

/// How many clients ask at the same time.
const CLIENTS: [usize; 3] = [1, 8, 64];
/// In how many turns each measurement is made.
const TURNS: u32 = 4;
/// The first list that is asked for has this part of the instances, the second one all.
const FIRST_PART: usize = 4;
/// Connections that are open and say nothing.
const IDLE: usize = 500;
/// Who asks, on both sides.
const USER: (&str, &str) = ("writer", "writepw");
/// How long a bare client tries to connect, and how often.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
const CONNECT_PAUSE: Duration = Duration::from_millis(10);
/// The longest answer of the master daemon.
const ANSWER_BYTES: usize = 256 << 20;

const HOW: &str = "One real Ganeti cluster of four nodes; rapid with the engine luxi beside ganeti-rapi, with the same RSA \
    certificate; each\nrequest on a new TLS connection without a resumed session unless said otherwise. The clients share the \
    cores with the daemons\nand the cluster. \"luxid\" is a bare LUXI client that makes the same call on a connection that it keeps.";

/// Makes the cluster, and measures inside its namespace.
pub(crate) fn run(program: PathBuf, time: Duration, instances: usize) -> Result<()> {
    if !oracle::is_inside() {
        machine::packages(ganeti::PACKAGES)?;
        println!("making a real Ganeti cluster …");
        let cluster = Ganeti::up("bench")?;
        let mut again = cluster.inside(std::env::current_exe()?);
        return machine::run(oracle::mark_inside(again.args(std::env::args_os().skip(1))));
    }
    let base = tempfile::tempdir()?;
    let place = Place::new(program, base.path())?;
    fs::write(place.path("users"), USERS)?;
    let mut table = Table::new(table::machine(HOW));
    server::runtime()?.block_on(async {
        let (socket, certificate) = (ganeti::socket(), ganeti::certificate());
        let path = |path: &Path| path.to_owned().into_os_string();
        let arguments = [
            OsString::from("--engine"),
            OsString::from("luxi"),
            OsString::from("--luxi-socket"),
            path(&socket),
            OsString::from("--ssl-cert"),
            path(&certificate),
        ];
        let server = place.start(&arguments).await?;
        let bench = Peers::new(server, socket, time)?;
        bench.all(instances, &mut table).await?;
        bench.server.stop().await
    })?;
    println!("{}", table.text());
    Ok(())
}

/// The two daemons, and the master daemon behind them.
struct Peers {
    server: Server,
    ours: Target,
    theirs: Target,
    socket: PathBuf,
    their_pid: u32,
    time: Duration,
}

/// What was measured in turns: ours, theirs, and the master daemon by itself.
struct Turns {
    ours: Measured,
    theirs: Measured,
    luxid: Option<Measured>,
}

impl Peers {
    fn new(server: Server, socket: PathBuf, time: Duration) -> Result<Self> {
        let ours = Target { address: server.address.clone(), user: USER };
        let theirs = Target { address: oracle::ADDRESS.to_owned(), user: USER };
        let their_pid = fs::read_to_string(ganeti::pid_file())?.trim().parse()?;
        Ok(Self { server, ours, theirs, socket, their_pid, time })
    }

    async fn all(&self, count: usize, table: &mut Table) -> Result<()> {
        self.version(table).await?;
        self.bound("/2/info", &Request::get("/2/info"), Call::QueryClusterInfo, &json!([]), table)
            .await?;
        let mut made = 0;
        let bulk = Request::get("/2/instances?bulk=1");
        for count in [count / FIRST_PART, count] {
            println!("making {} instances …", count - made);
            instances(&self.ours.client()?, made..count).await?;
            made = count;
            let fields = self.fields(&bulk).await?;
            let (name, args) = (format!("a list of {count} instances"), json!([[], fields, false]));
            self.bound(&name, &bulk, Call::QueryInstances, &args, table).await?;
        }
        self.submissions(table).await?;
        self.memory(&bulk, table).await?;
        self.idle(table).await
    }

    /// What needs no cluster: the door alone.
    async fn version(&self, table: &mut Table) -> Result<()> {
        let request = Request::get("/version");
        for clients in CLIENTS {
            let turns = self.turns(clients, &request, None).await?;
            let ratio = turns.ours.per_second() / turns.theirs.per_second();
            let bar = match clients {
                1 => Some(Bar { text: "at least 15 times", met: ratio >= 15.0 }),
                8 => Some(Bar { text: "at least 6 times", met: ratio >= 6.0 }),
                _ => None,
            };
            turns.rates(&format!("/version, {}", people(clients)), bar.as_ref(), table);
            let kept = measure(&self.ours, clients, Connection::Kept, self.time, &request).await?;
            let turns = Turns { ours: kept, ..turns };
            let ratio = turns.ours.per_second() / turns.theirs.per_second();
            let bar = Bar { text: "at least 300 times", met: ratio >= 300.0 };
            let name = format!("/version, {}, ours with kept connections", people(clients));
            turns.rates(&name, Some(&bar), table);
        }
        Ok(())
    }

    /// What the master daemon is asked for.
    async fn bound(
        &self,
        name: &str,
        request: &Request,
        call: Call,
        args: &Value,
        table: &mut Table,
    ) -> Result<()> {
        let message = message::request(call, args, None);
        for clients in CLIENTS {
            let turns = self.turns(clients, request, Some(&message)).await?;
            turns.times(&format!("{name}, {}", people(clients)), table);
        }
        Ok(())
    }

    /// Jobs are submitted and held, so that their work is not measured.
    async fn submissions(&self, table: &mut Table) -> Result<()> {
        let opcode = json!({"OP_ID": "OP_CLUSTER_REDIST_CONF", "reason": []});
        let rule = json!({
            "priority": 0, "predicates": [["opcode", ["=", "OP_ID", "OP_CLUSTER_REDIST_CONF"]]], "action": "PAUSE",
        });
        let client = self.ours.client()?;
        client.call(Method::Post, "/2/filters", &[], Some(&rule)).await?;
        let request = Request { method: Method::Put, target: "/2/redistribute-config".to_owned() };
        self.bound("submission of a job", &request, Call::SubmitJob, &json!([[opcode]]), table)
            .await
    }

    /// The most that the processes take while many ask.
    async fn memory(&self, request: &Request, table: &mut Table) -> Result<()> {
        let many = CLIENTS[CLIENTS.len() - 1];
        let mut peaks = Vec::new();
        for (target, pid) in [(&self.ours, self.server.pid()), (&self.theirs, self.their_pid)] {
            let peak = Peak::of(pid);
            measure(target, many, Connection::New, self.time, request).await?;
            peaks.push(peak.end()?);
        }
        let [(ours, _), (theirs, processes)] = peaks[..] else { return Ok(()) };
        let bar = Bar { text: "at most a third", met: ours * 3.0 <= theirs };
        table.row(
            &format!("memory (PSS) at most, lists of all, {}", people(many)),
            &format!("{ours:.1} MiB"),
            &format!("ganeti-rapi {theirs:.1} MiB in {processes} processes"),
            Some(&bar),
        );
        Ok(())
    }

    /// What others notice of connections that are open and say nothing.
    async fn idle(&self, table: &mut Table) -> Result<()> {
        let (request, clients) = (Request::get("/2/info"), 8);
        let kept = Connection::Kept;
        let before = measure(&self.ours, clients, kept, self.time, &request).await?;
        let mut idle = Vec::new();
        for _ in 0..IDLE {
            let client = self.ours.client()?;
            client.call(Method::Get, "/version", &[], None).await?;
            idle.push(client);
        }
        let during = measure(&self.ours, clients, kept, self.time, &request).await?;
        for client in &idle {
            let begun = Instant::now();
            client.call(Method::Get, "/version", &[], None).await?;
            ensure!(begun.elapsed() < Duration::from_secs(1), "an idle connection is slow");
        }
        drop(idle);
        let theirs = self.theirs_beside_idle(&request).await?;
        let (alone, beside) = (before.quantile(0.99), during.quantile(0.99));
        let bar = Bar { text: "p99 at most twice", met: beside <= alone * 2 };
        table.row(
            &format!("/2/info, kept, {}, {IDLE} idle connections", people(clients)),
            &format!("p99 {:.2} ms", ms(beside)),
            &format!("without them p99 {:.2} ms; ganeti-rapi {theirs}", ms(alone)),
            Some(&bar),
        );
        Ok(())
    }

    /// The real daemon has a process for each connection, and only so many; it closes silent ones after ten seconds.
    async fn theirs_beside_idle(&self, request: &Request) -> Result<String> {
        let address = self.theirs.address.trim_start_matches("https://");
        let mut idle = Vec::new();
        for _ in 0..IDLE {
            idle.push(TcpStream::connect(address).await?);
        }
        let asked = measure(&self.theirs, 1, Connection::New, self.time, request);
        let limit = self.time * 2;
        let said = match timeout(limit, asked).await {
            Ok(Ok(measured)) => format!("p99 {:.2} ms", ms(measured.quantile(0.99))),
            Ok(Err(error)) => format!("fails: {error:#}"),
            Err(_) => format!("answers nobody for {} s", limit.as_secs()),
        };
        drop(idle);
        Ok(said)
    }

    /// The fields that make up a list, as the list shows them.
    async fn fields(&self, request: &Request) -> Result<Vec<String>> {
        let list = self.theirs.client()?.call(request.method, &request.target, &[], None).await?;
        let first = list[0].as_object().context("a list without instances")?;
        Ok(first.keys().cloned().collect())
    }

    async fn turns(
        &self,
        clients: usize,
        request: &Request,
        luxid: Option<&[u8]>,
    ) -> Result<Turns> {
        let slice = self.time / TURNS;
        let mut turns = Turns {
            ours: Measured::new(),
            theirs: Measured::new(),
            luxid: luxid.map(|_| Measured::new()),
        };
        for _ in 0..TURNS {
            let new = Connection::New;
            turns.ours.then(measure(&self.ours, clients, new, slice, request).await?);
            turns.theirs.then(measure(&self.theirs, clients, new, slice, request).await?);
            if let (Some(all), Some(message)) = (&mut turns.luxid, luxid) {
                all.then(bare(&self.socket, clients, slice, message).await?);
            }
        }
        Ok(turns)
    }
}

impl Turns {
    /// Where the number of requests is what counts.
    fn rates(&self, name: &str, bar: Option<&Bar>, table: &mut Table) {
        let (ours, theirs) = (self.ours.per_second(), self.theirs.per_second());
        let how = format!(
            "{}; ganeti-rapi {theirs:.0}/s, {}: {:.1} times",
            self.ours.latencies(),
            self.theirs.latencies(),
            ours / theirs
        );
        table.row(name, &format!("{ours:.0}/s"), &how, bar);
    }

    /// Where the time of one is.
    fn times(&self, name: &str, table: &mut Table) {
        let (ours, theirs) = (self.ours.quantile(0.5), self.theirs.quantile(0.5));
        let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
        let luxid = self
            .luxid
            .as_ref()
            .map(|luxid| format!("; luxid p50 {:.2} ms", ms(luxid.quantile(0.5))));
        let how = format!(
            "{:.0}/s; ganeti-rapi p50 {:.2} ms, {:.0}/s: {ratio:.2} of its time{}",
            self.ours.per_second(),
            ms(theirs),
            self.theirs.per_second(),
            luxid.unwrap_or_default()
        );
        let bar = Bar { text: "at most 1.05 of its time", met: ratio <= 1.05 };
        table.row(name, &format!("p50 {:.2} ms", ms(ours)), &how, Some(&bar));
    }
}

fn people(clients: usize) -> String {
    if clients == 1 { "1 client".to_owned() } else { format!("{clients} clients") }
}

/// The same call again and again without any daemon between.
async fn bare(socket: &Path, clients: usize, time: Duration, message: &[u8]) -> Result<Measured> {
    let mut streams = Vec::new();
    for _ in 0..clients {
        streams.push(connected(socket).await?);
    }
    let mut tasks = JoinSet::new();
    let begun = Instant::now();
    for mut stream in streams {
        let message = message.to_vec();
        tasks.spawn(async move {
            let (mut reader, mut measured) = (Reader::new(), Measured::new());
            while begun.elapsed() < time {
                let sent = Instant::now();
                frame::send(&mut stream, message.clone()).await?;
                let answer = reader.next(&mut stream, ANSWER_BYTES).await?;
                measured.add(sent.elapsed());
                let answer = answer.context("luxid closed")?;
                ensure!(answer.starts_with(b"{\"success\":true"), "luxid refuses the call");
            }
            Ok::<_, anyhow::Error>(measured.done())
        });
    }
    let mut all = Measured::new();
    while let Some(measured) = tasks.join_next().await {
        all.join(measured??);
    }
    Ok(all)
}

/// The master daemon takes few new connections at a time; the others are told to come again.
async fn connected(socket: &Path) -> Result<UnixStream> {
    let begun = Instant::now();
    loop {
        match UnixStream::connect(socket).await {
            Err(error)
                if error.kind() == ErrorKind::WouldBlock && begun.elapsed() < CONNECT_LIMIT =>
            {
                sleep(CONNECT_PAUSE).await;
            }
            connected => return connected.context("luxid"),
        }
    }
}

/// Makes instances without disks, from one number to another.
async fn instances(client: &Client, numbers: std::ops::Range<usize>) -> Result<()> {
    let mut jobs = Vec::new();
    for number in numbers {
        let asked = json!({
            "__version__": 1, "mode": "create", "instance_name": format!("bulk{}.gnt.example", number + 1),
            "name_check": false, "ip_check": false, "disk_template": "diskless", "hypervisor": "fake",
            "os_type": "noop", "disks": [], "nics": [{}], "beparams": {"maxmem": 128, "minmem": 128},
            "pnode": format!("node{}.gnt.example", number % 4 + 1),
        });
        jobs.push(client.submit(Method::Post, "/2/instances", &[], Some(&asked)).await?);
    }
    for job in jobs {
        succeed(client, job, |_| {}).await?;
    }
    Ok(())
}
