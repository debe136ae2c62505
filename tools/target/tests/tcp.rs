//! The pair behind real sockets on loopback: a smoke test, killing and starting again, faults live,
//! and the tools of libiscsi as an initiator that shares no code with this project.

#![allow(clippy::unwrap_used)]

mod common;

use common::{Done, Peer, USUAL, done};
use mpio_target::config::NodeConfig;
use mpio_target::faults::Commands;
use mpio_target::store::Backing;
use mpio_target::wire::scsi::{Cdb, Transfer};
use mpio_target::{Chap, ChapAlgorithm, Fault, PairConfig, Rule, TargetPair};
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::Duration;

struct Client {
    stream: TcpStream,
    peer: Peer,
}

impl Client {
    fn connect(addr: SocketAddr, target: &str, number: u8) -> Client {
        let stream = TcpStream::connect(addr).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut client = Client { stream, peer: Peer::new(number) };
        let names = [("InitiatorName", "iqn.2026-11.example:host"), ("TargetName", target)];
        let request = client.peer.login(1, Some(3), &[&names, USUAL].concat());
        client.stream.write_all(&request).unwrap();
        client.receive().unwrap();
        assert_eq!(client.peer.came.pop_front().unwrap().login().status_class, 0);
        client.run(&Cdb::TestUnitReady, &[]);
        client
    }

    fn receive(&mut self) -> std::io::Result<()> {
        let mut buffer = vec![0; 65536];
        match self.stream.read(&mut buffer)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            n => {
                self.peer.feed(&buffer[..n]).unwrap();
                Ok(())
            }
        }
    }

    fn start(&mut self, cdb: &Cdb, data: &[u8]) -> u32 {
        let (tag, bytes) = self.peer.command(cdb, 512, data);
        self.stream.write_all(&bytes).unwrap();
        tag
    }

    fn wait(&mut self, tag: u32) -> Done {
        loop {
            if let Some(done) = done(&mut self.peer.came, tag) {
                return done;
            }
            self.receive().unwrap();
        }
    }

    fn run(&mut self, cdb: &Cdb, data: &[u8]) -> Done {
        let tag = self.start(cdb, data);
        self.wait(tag)
    }
}

fn target(pair: &TargetPair, index: usize) -> (SocketAddr, String) {
    (pair.node(index).addr(), pair.pair().config().nodes[index].target.clone())
}

fn client(pair: &TargetPair, index: usize, number: u8) -> Client {
    let (addr, name) = target(pair, index);
    Client::connect(addr, &name, number)
}

#[test]
fn write_here_read_there() {
    let pair = TargetPair::start(PairConfig::default()).unwrap();
    let (mut a, mut b) = (client(&pair, 0, 1), client(&pair, 1, 1));
    let data: Vec<u8> = (0..65536u32).map(|i| (i * 7 / 3) as u8).collect();
    assert_eq!(a.run(&Cdb::Write(Transfer::new(8, 128)), &data).status, 0);
    assert_eq!(b.run(&Cdb::Read(Transfer::new(8, 128)), &[]).data, data);
    // Many at once: the answers of one receive leave together.
    let tags: Vec<_> = (0..100).map(|_| b.start(&Cdb::Read(Transfer::new(8, 8)), &[])).collect();
    for tag in tags {
        assert_eq!(b.wait(tag).data, data[..4096]);
    }
    // More than any socket buffer holds, with nobody reading meanwhile.
    let tags: Vec<_> = (0..60).map(|_| b.start(&Cdb::Read(Transfer::new(0, 2048)), &[])).collect();
    std::thread::sleep(Duration::from_millis(50));
    for tag in tags {
        assert_eq!(b.wait(tag).data.len(), 1 << 20);
    }
    for index in 0..2 {
        assert_eq!(pair.node(index).counters().violations(), Vec::<String>::new());
    }
    assert_eq!(pair.journal().count(), 1);
}

#[test]
fn killed_and_started_again() {
    let pair = TargetPair::start(PairConfig::default()).unwrap();
    let mut a = client(&pair, 0, 1);
    a.run(&Cdb::Write(Transfer::new(0, 1)), &[5; 512]);
    pair.node(0).faults().set("hang", Rule::new(Fault::Hold).on(Commands::Writes));
    a.start(&Cdb::Write(Transfer::new(0, 1)), &[6; 512]);
    while pair.node(0).with(|node, _| node.held()) == Some(0) {
        std::thread::yield_now();
    }
    pair.node(0).kill();
    assert_eq!(a.receive().unwrap_err().kind(), ErrorKind::ConnectionReset);
    let (addr, _) = target(&pair, 0);
    assert_eq!(TcpStream::connect(addr).unwrap_err().kind(), ErrorKind::ConnectionRefused);
    assert_eq!(pair.node(0).sessions(), 0);
    pair.node(0).faults().clear();
    pair.node(0).start_again().unwrap();
    let mut again = client(&pair, 0, 1);
    assert_eq!(again.run(&Cdb::Read(Transfer::new(0, 1)), &[]).data, [5; 512]);
    assert_eq!(pair.node(0).release(), 0, "what was held died with the process");
}

#[test]
fn faults_change_while_it_runs() {
    let pair = TargetPair::start(PairConfig::default()).unwrap();
    let node = pair.node(0);
    let mut a = client(&pair, 0, 1);
    node.faults()
        .set("slow", Rule::new(Fault::Delay(Duration::from_millis(30), Duration::from_millis(30))));
    let before = std::time::Instant::now();
    a.run(&Cdb::TestUnitReady, &[]);
    assert!(before.elapsed() >= Duration::from_millis(30));
    node.faults().clear();

    node.faults().set("stop", Rule::new(Fault::Freeze));
    let tag = a.start(&Cdb::TestUnitReady, &[]);
    a.stream.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
    assert_eq!(a.receive().unwrap_err().kind(), ErrorKind::WouldBlock);
    a.stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    node.faults().clear();
    assert_eq!(a.wait(tag).status, 0);

    node.faults().set("rst", Rule::new(Fault::Reset).times(1));
    a.start(&Cdb::TestUnitReady, &[]);
    assert_eq!(a.receive().unwrap_err().kind(), ErrorKind::ConnectionReset);
    let mut b = client(&pair, 0, 1);
    node.reset_connections();
    assert_eq!(b.receive().unwrap_err().kind(), ErrorKind::ConnectionReset);
}

fn libiscsi(tool: &str, arguments: &[&str]) -> String {
    let out = Command::new(tool)
        .args(arguments)
        .output()
        .unwrap_or_else(|error| panic!("{tool}: {error}; install the package libiscsi-bin"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let (said, complained) = (text(&out.stdout), text(&out.stderr));
    assert!(out.status.success(), "{tool}: {said}{complained}");
    said
}

#[test]
fn an_initiator_of_others_agrees() {
    let chap = Chap {
        user: "host".to_owned(),
        secret: b"secret-of-12".to_vec(),
        mutual: None,
        algorithms: ChapAlgorithm::ALL.to_vec(),
    };
    let mut config = PairConfig { block_size: 4096, size: 8 << 20, ..PairConfig::default() };
    config.nodes[1] = NodeConfig { chap: Some(chap), lun: 3, ..config.nodes[1].clone() };
    let path = std::env::temp_dir().join(format!("mpio-target-tcp-{}.img", std::process::id()));
    config.backing = Backing::File(path.clone());
    let pair = TargetPair::start(config).unwrap();
    let (addr, name) = target(&pair, 0);
    let found = libiscsi("iscsi-ls", &["-s", &format!("iscsi://{addr}")]);
    assert!(found.contains(&format!("Target:{name} Portal:{addr},1")), "{found}");
    assert!(found.contains("Lun:0    Type:DIRECT_ACCESS"), "{found}");
    let url = format!("iscsi://{addr}/{name}/0");
    let capacity = libiscsi("iscsi-readcapacity16", &[&url]);
    assert!(capacity.contains("RETURNED LOGICAL BLOCK ADDRESS:2047"), "{capacity}");
    assert!(capacity.contains("LOGICAL BLOCK LENGTH IN BYTES:4096"), "{capacity}");
    assert!(capacity.contains("LBPME:1 LBPRZ:1"), "{capacity}");
    let inquiry = libiscsi("iscsi-inq", &[&url]);
    assert!(inquiry.contains("Vendor:MPIO") && inquiry.contains("Product:MIRROR"), "{inquiry}");

    let (addr, name) = target(&pair, 1);
    let url = format!("iscsi://host%secret-of-12@{addr}/{name}/3");
    let serial = libiscsi("iscsi-inq", &["-e", "1", "-c", "128", &url]);
    assert!(serial.contains("[mirror-0001]"), "{serial}");
    for index in 0..2 {
        assert_eq!(pair.node(index).counters().violations(), Vec::<String>::new());
    }
    drop(pair);
    std::fs::remove_file(path).unwrap();
}
