//! A whole lab: made, driven, and removed when dropped.

use std::time::{Duration, Instant};

use lb_userspace::peer::pki;

use crate::claim::{Claim, LabId};
use crate::command;
use crate::diag;
use crate::error::LabError;
use crate::host::{Backend, Client, Node, Router, Spread};
use crate::node_config::{NodeConfig, Times, pki_folder};
use crate::topo::{Family, NodeSpec, Topology};
use crate::wait::Interrupt;

/// Keeps every lab of a test run standing, for a look at it.
const KEEP_VARIABLE: &str = "LAB_KEEP";

/// The group's name in certificates.
const PKI_GROUP: &str = "lab";

/// No duplicate address detection: for its first second a link-local address would be tentative, and without
/// one a router sends no neighbour solicitation for packets that it forwards.
const NO_DAD: [(&str, &str); 2] = [
    ("net/ipv6/conf/all/accept_dad", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
];

/// What a lab is to be; [`LabBuilder::build`] makes it.
#[derive(Clone, Debug)]
pub struct LabBuilder {
    name: String,
    topology: Topology,
    configs: Vec<NodeConfig>,
    spread: Spread,
    peered: Option<Times>,
    interrupt: Interrupt,
}

impl LabBuilder {
    /// So many nodes; 0 makes a lab without Tandem, in which the router spreads over the backends itself.
    pub fn nodes(mut self, nodes: usize) -> Self {
        self.topology.nodes = vec![NodeSpec::default(); nodes];
        self
    }

    /// One backend per weight.
    pub fn weights(mut self, weights: &[u16]) -> Self {
        self.topology.weights = weights.to_vec();
        self
    }

    /// Node `index` reaches the backends through a second interface, `eth1`. Call it after [`LabBuilder::nodes`].
    pub fn second_link(mut self, index: usize) -> Self {
        self.topology.nodes[index].second_link = true;
        self
    }

    /// What the nodes begin with, one for each: a pool may lack backends of the lab. Without it every node serves all
    /// VIPs over all backends.
    pub fn configs(mut self, configs: Vec<NodeConfig>) -> Self {
        self.configs = configs;
        self
    }

    /// How the router spreads the VIPs over the nodes; a plain route, if nothing is said.
    pub fn spread(mut self, spread: Spread) -> Self {
        self.spread = spread;
        self
    }

    /// The nodes talk to each other, with certificates of an authority of this lab.
    pub fn peered(mut self, times: Times) -> Self {
        self.peered = Some(times);
        self
    }

    /// Gives up between two steps of the set-up when this is raised.
    pub fn interrupt(mut self, interrupt: &Interrupt) -> Self {
        self.interrupt = interrupt.clone();
        self
    }

    /// Makes the lab with every process ready. What an attempt that fails has made is removed again
    /// (its logs are kept, see [`diag`]).
    pub fn build(self) -> Result<Lab, LabError> {
        self.topology.check()?;
        let mut lab = Lab::bare(self)?;
        match lab.set_up() {
            Ok(()) => Ok(lab),
            Err(error) => {
                lab.save_diagnosis();
                Err(error)
            }
        }
    }

    /// Makes the lab and runs `test` in it. An error leaves a diagnosis under `target/lab/`, as a panic does.
    pub fn run<T, E: From<LabError>>(self, test: impl FnOnce(&mut Lab) -> Result<T, E>) -> Result<T, E> {
        let mut lab = self.build()?;
        let result = test(&mut lab);
        if result.is_err() {
            lab.save_diagnosis();
        }
        result
    }
}

/// What came of [`Lab::power_loss`].
#[derive(Clone, Copy, Debug)]
pub struct PowerLoss {
    /// From now on nothing came from the node.
    pub death: Instant,
    /// From then until the router had moved the traffic.
    pub moved: Duration,
}

/// A running lab. Dropping it removes processes, namespaces, pins and files, unless it is kept.
#[derive(Debug)]
pub struct Lab {
    name: String,
    topology: Topology,
    interrupt: Interrupt,
    client: Client,
    router: Router,
    nodes: Vec<Node>,
    backends: Vec<Backend>,
    diagnosed: bool,
    /// Last: its removal of everything comes after the processes' own ends.
    claim: Claim,
}

impl Lab {
    /// A lab of two nodes with three backends of weights 1, 2 and 3, if nothing else is said.
    /// `name` is for the diagnosis of a failure: `target/lab/<name>/`.
    pub fn builder(name: &str) -> LabBuilder {
        let topology = Topology::star(2, &[1, 2, 3]);
        LabBuilder {
            name: name.to_owned(),
            topology,
            configs: Vec::new(),
            spread: Spread::default(),
            peered: None,
            interrupt: Interrupt::default(),
        }
    }

    fn bare(builder: LabBuilder) -> Result<Self, LabError> {
        let claim = Claim::take()?;
        let LabBuilder {
            name,
            topology,
            configs,
            spread,
            peered,
            interrupt,
        } = builder;
        let id = claim.id();
        let (dir, pins) = (id.dir(), id.pins());
        let node = |index| {
            let own = configs.get(index).cloned();
            let mut config = own.unwrap_or_else(|| NodeConfig::of(&topology, index));
            if let Some(times) = &peered {
                config.peer(&topology, times);
            }
            let name = Topology::node_name(index);
            Node::new(config, id.netns(&name), pins.join(&name), &dir)
        };
        let backend = |(index, weight): (usize, &u16)| {
            let name = Topology::backend_name(index);
            let addresses = Family::BOTH.map(|family| topology.backend_address(index, family));
            let (namespace, pins) = (id.netns(&name), pins.join(&name));
            Backend::new((name, *weight), addresses.into(), namespace, pins, &dir)
        };
        let names = (0..topology.weights.len()).map(Topology::backend_name).collect();
        Ok(Self {
            client: Client::new(id.netns("client"), names),
            router: Router::new(id.netns("router"), topology.clone(), spread),
            nodes: (0..topology.nodes.len()).map(node).collect(),
            backends: topology.weights.iter().enumerate().map(backend).collect(),
            name,
            topology,
            interrupt,
            diagnosed: false,
            claim,
        })
    }

    /// Only network and namespaces first; then servers, then nodes, each kind at the same time.
    fn set_up(&mut self) -> Result<(), LabError> {
        self.connect()?;
        for backend in &mut self.backends {
            self.interrupt.check()?;
            backend.set_sysctls()?;
            backend.start()?;
            if !self.topology.nodes.is_empty() {
                backend.attach_decap()?;
            }
        }
        self.issue_certificates()?;
        for node in &mut self.nodes {
            self.interrupt.check()?;
            node.write_config(&node.config().to_yaml()?)?;
            node.spawn()?;
        }
        self.backends.iter_mut().try_for_each(Backend::wait_ready)?;
        for node in &mut self.nodes {
            node.wait_in_service()?;
        }
        self.interrupt.check()
    }

    /// Of nodes that talk to each other.
    fn issue_certificates(&self) -> Result<(), LabError> {
        let talks = |node: &&Node| node.config().group.peering.is_some();
        let Some(_) = self.nodes.iter().find(talks) else {
            return Ok(());
        };
        let dir = self.claim.id().dir();
        let authority = dir.join("authority");
        pki::init(&authority, PKI_GROUP, false)?;
        for node in &self.nodes {
            let own = dir.join(pki_folder(node.name()));
            pki::issue(&authority, node.name(), &own, pki::NODE_DAYS, false)?;
        }
        Ok(())
    }

    fn connect(&mut self) -> Result<(), LabError> {
        let id = self.claim.id();
        let names = self.topology.roles().into_iter().map(|role| id.netns(&role));
        command::ip_batch(
            None,
            &names
                .map(|n| format!("netns add {}", n.name()))
                .collect::<Vec<_>>(),
        )?;
        for role in self.topology.roles() {
            id.netns(&role).sysctl(&NO_DAD)?;
        }
        self.router.set_sysctls()?;
        self.client.set_up()?;
        let links = self.topology.links();
        let router = self.router.namespace().name();
        let pair = |link: &crate::topo::Link| {
            let host = id.netns(&link.host);
            let (interface, far) = (link.interface, &link.far);
            format!(
                "link add {interface} netns {} type veth peer name {far} netns {router}",
                host.name()
            )
        };
        command::ip_batch(None, &links.iter().map(pair).collect::<Vec<_>>())?;
        self.interrupt.check()?;
        let pins = id.pins().join("router");
        self.router.set_up(&links, &pins)?;
        for role in self.topology.roles().iter().filter(|r| *r != "router") {
            let own = links.iter().filter(|l| l.host == *role);
            let mut lines: Vec<String> = own.flat_map(|l| self.topology.host_lines(l)).collect();
            lines.extend(if role.starts_with("be") {
                Backend::lines()
            } else {
                vec!["link set dev lo up".to_owned()]
            });
            id.netns(role).ip(&lines)?;
        }
        self.router.begin()
    }

    /// The lab's id, of which all its names are made.
    pub fn id(&self) -> &LabId {
        self.claim.id()
    }

    /// What it consists of.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// Where the traffic comes from.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// The router.
    pub fn router(&self) -> &Router {
        &self.router
    }

    /// The router, to change more than its routes.
    pub fn router_mut(&mut self) -> &mut Router {
        &mut self.router
    }

    /// Node `index` loses its power at the moment `at`, now if that is over: from then on nothing comes from it any more;
    /// then its agent is killed, its program and its maps are gone. The router notices after `detection` and moves the
    /// traffic to the nodes `rest`. At the end the links go down.
    pub fn power_loss(
        &mut self,
        index: usize,
        at: Instant,
        detection: Duration,
        rest: &[usize],
    ) -> Result<PowerLoss, LabError> {
        let silence = self.router.prepare_silence(index, true)?;
        let mover = self.router.prepare_move(rest)?;
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        silence.run()?;
        let death = Instant::now();
        let mover = std::thread::spawn(move || {
            std::thread::sleep((death + detection).saturating_duration_since(Instant::now()));
            mover.run().map(|()| death.elapsed())
        });
        let fallen = self.nodes[index].fall();
        let moved = mover
            .join()
            .unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        fallen?;
        self.nodes[index].unplug(&self.topology.node_links(index))?;
        Ok(PowerLoss { death, moved: moved? })
    }

    /// Gives node `index` its power back: it starts with new maps. [`Node::wait_in_service`] says when it may be sent traffic.
    pub fn power_on(&mut self, index: usize) -> Result<(), LabError> {
        let links = self.topology.node_links(index);
        self.nodes[index].rise(&self.topology, &links)?;
        self.router.prepare_silence(index, false)?.run()
    }

    /// Nodes `a` and `b` can't reach each other until [`Lab::heal`]. Clients' traffic goes on.
    pub fn partition(&self, a: usize, b: usize) -> Result<(), LabError> {
        self.router.cut((a, b), true)
    }

    /// Ends a partition.
    pub fn heal(&self, a: usize, b: usize) -> Result<(), LabError> {
        self.router.cut((a, b), false)
    }

    /// Node `index`, from 0.
    pub fn node(&mut self, index: usize) -> &mut Node {
        &mut self.nodes[index]
    }

    /// All nodes.
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Backend `index`, from 0.
    pub fn backend(&mut self, index: usize) -> &mut Backend {
        &mut self.backends[index]
    }

    /// All backends.
    pub fn backends(&self) -> &[Backend] {
        &self.backends
    }

    /// Leaves everything standing when dropped, until `cargo xtask run --clean`.
    pub fn keep(&mut self) -> Result<(), LabError> {
        self.claim.keep()?;
        self.nodes.iter_mut().for_each(Node::release);
        self.backends.iter_mut().for_each(Backend::release);
        Ok(())
    }

    /// Lines to paste into a shell for a look at a kept lab.
    pub fn hints(&self) -> Result<Vec<String>, LabError> {
        let mut lines = Vec::new();
        for node in &self.nodes {
            for args in ["status", "backends", "stats"] {
                lines.push(node.lbctl_line(args)?);
            }
            // Interfaces have their names there alone.
            let trace = node.lbctl_line("trace --from 10.9.1.2:40000 --to 10.200.1.1:80 --syn")?;
            lines.push(format!(
                "nsenter --net={} -- {trace}",
                node.namespace().path().display()
            ));
        }
        for address in ["http://10.200.1.1/", "'http://[fd00:200:1::1]/'"] {
            lines.push(command::line(
                self.client.namespace().command("curl").args(["-s", address]),
            ));
        }
        Ok(lines)
    }

    /// Writes what helps to understand a failure to `target/lab/<name>/`, once.
    pub fn save_diagnosis(&mut self) {
        if self.diagnosed {
            return;
        }
        self.diagnosed = true;
        let start = Instant::now();
        match diag::save(&self.name, self) {
            Ok(dir) => eprintln!("lab {}: logs and dumps are in {}", self.name, dir.display()),
            Err(error) => eprintln!("lab {}: no diagnosis: {error}", self.name),
        }
        if start.elapsed() > Duration::from_secs(10) {
            eprintln!("lab {}: the diagnosis took {:?}", self.name, start.elapsed());
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.save_diagnosis();
        }
        if !self.claim.kept() && std::env::var_os(KEEP_VARIABLE).is_some_and(|v| v == "1") {
            match (self.keep(), self.hints()) {
                (Ok(()), Ok(lines)) => eprintln!("lab {} is kept:\n{}", self.name, lines.join("\n")),
                (Err(error), _) | (_, Err(error)) => eprintln!("lab {}: can't keep it: {error}", self.name),
            }
        }
    }
}
