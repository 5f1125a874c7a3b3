//! One pass over all targets, the events that call for the next one, and the refreshing of neighbours.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};

use super::error::Error;
use super::event::{Burst, Event, Events};
use super::hop::{self, NextHop, Target};
use super::link::{self, Address, Link, Traffic};
use super::memory::{Memory, key};
use super::neigh::{Entry, Key, Known, step};
use super::route::{self, Path};
use super::socket::{Asked, Socket};
use super::why::Why;

/// How often [`Resolver::refresh`] is to be called: below the kernel's shortest usual time in REACHABLE (15 s) and not
/// above its DELAY (5 s), so that a neighbour in use is confirmed as if the kernel itself sent to it.
pub const REFRESH_EVERY: Duration = Duration::from_secs(5);

/// How long a pass waits for neighbours that it asks for the first time, all together. The kernel asks once a second:
/// an answer to the second question is still in time.
const FIRST_ANSWER: Duration = Duration::from_millis(1_200);

/// The longest pause between two looks at whether they have answered.
const SLOWEST_LOOK: Duration = Duration::from_millis(50);

/// Keeps the next hops of targets: looks them up, remembers them, and keeps their neighbours alive.
///
/// Needs CAP_NET_ADMIN (to ask for neighbours), and works in the network namespace of the thread that opens it.
pub struct Resolver {
    socket: Socket,
    events: Events,
    burst: Option<Burst>,
    memory: Memory,
}

/// All links of this network namespace, by name.
///
/// # Errors
/// [`Error`], if the netlink socket fails.
pub async fn links() -> Result<HashMap<String, Link>, Error> {
    let links = Socket::open()?.links().await?;
    Ok(links
        .into_values()
        .map(|link| (link.name.clone(), link))
        .collect())
}

/// What the kernel has counted of all links in this network namespace, by index.
///
/// # Errors
/// [`Error`], if the netlink socket fails.
pub async fn traffic() -> Result<HashMap<u32, Traffic>, Error> {
    Socket::open()?.traffic().await
}

/// All addresses of this host, in this network namespace.
///
/// # Errors
/// [`Error`], if the netlink socket fails.
pub async fn addresses() -> Result<HashSet<IpAddr>, Error> {
    let addresses = Socket::open()?.addresses().await?;
    Ok(addresses.into_iter().map(|address| address.address).collect())
}

/// The interfaces by which the kernel would send packets to these addresses, with their indexes, all ways of multipath
/// routes included. An address without a route adds none.
///
/// # Errors
/// [`Error`], if the netlink socket fails.
pub async fn interfaces_towards(to: &[IpAddr]) -> Result<BTreeMap<String, u32>, Error> {
    let socket = Socket::open()?;
    let links = socket.links().await?;
    let picks = socket
        .routes(to)
        .await?
        .into_iter()
        .flatten()
        .map(|path| path.ifindex);
    let ways = socket.ways(to).await?.into_iter().flatten().flatten();
    let all = picks.chain(ways.map(|path| path.ifindex));
    Ok(all
        .filter_map(|ifindex| links.get(&ifindex).map(|link| (link.name.clone(), ifindex)))
        .collect())
}

impl Resolver {
    /// Opens the netlink sockets, inside a tokio runtime with I/O and time enabled.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub async fn open() -> Result<Self, Error> {
        // Events first: nothing may happen between the first pass and them.
        let events = Events::open()?;
        Ok(Self {
            socket: Socket::open()?,
            events,
            burst: None,
            memory: Memory::default(),
        })
    }

    /// Opens the sockets anew after an error; what is known of next hops stays, and [`Self::changed`] returns soon.
    ///
    /// # Errors
    /// [`Error::Socket`].
    pub async fn reopen(&mut self) -> Result<(), Error> {
        self.events = Events::open()?;
        self.socket = Socket::open()?;
        self.burst = Some(Burst::with(None, Instant::now()));
        Ok(())
    }

    /// One pass: the next hops of `targets`, in the same order.
    ///
    /// Neighbours that are asked for the first time get a little over a second to answer. A target keeps its way while the
    /// route has it, and its MAC until the kernel gives the neighbour up (FAILED) or the route or link is gone.
    /// Targets that are not named are forgotten.
    ///
    /// # Errors
    /// [`Error`], if a netlink socket fails. A target that can't be reached is [`NextHop::Unresolved`], not an error.
    pub async fn resolve(&mut self, targets: &[Target]) -> Result<Vec<NextHop>, Error> {
        let addresses = self.socket.addresses().await?;
        self.memory.see_links(self.socket.links().await?);
        let entries = self.socket.neighbours().await?;
        self.memory.see_neighbours(&entries);

        let watched: HashSet<IpAddr> = targets
            .iter()
            .filter(|target| target.via.is_none())
            .map(|target| target.address)
            .collect();
        let (paths, spare) = self.paths(&watched, &addresses).await?;
        self.memory.watched = watched;
        self.find_neighbours(&paths, &spare, &entries).await?;
        let next_hops = targets
            .iter()
            .map(|target| self.decide(target, &paths, &addresses))
            .collect();
        self.memory.paths = paths
            .into_iter()
            .filter_map(|(address, path)| Some((address, path.ok()?)))
            .collect();
        Ok(next_hops)
    }

    /// Returns when an event has come that can change a next hop, and the burst of them is over. Cancel-safe.
    ///
    /// # Errors
    /// [`Error::Socket`], if the event socket fails; [`Self::reopen`] it.
    pub async fn changed(&mut self) -> Result<(), Error> {
        loop {
            let events = match self.burst {
                None => self.events.next().await?,
                Some(burst) => match timeout_at(burst.due(), self.events.next()).await {
                    Ok(events) => events?,
                    Err(_) => {
                        self.burst = None;
                        return Ok(());
                    }
                },
            };
            if events.iter().any(|event| self.matters(event)) {
                self.burst = Some(Burst::with(self.burst, Instant::now()));
            }
        }
    }

    /// Uses the neighbours of the last pass, so that the kernel keeps them and retries those that failed. To be called
    /// every [`REFRESH_EVERY`].
    ///
    /// # Errors
    /// [`Error`], if the netlink socket fails.
    pub async fn refresh(&mut self) -> Result<(), Error> {
        // Asking turns FAILED into INCOMPLETE, so the verdict is taken in first.
        if self.memory.see_neighbours(&self.socket.neighbours().await?) {
            self.burst = Some(Burst::with(self.burst, Instant::now()));
        }
        let keys: Vec<Key> = self.memory.neighbours.keys().copied().collect();
        self.ask(&keys).await
    }

    fn matters(&self, event: &Event) -> bool {
        match event {
            Event::Message(message) => self.memory.matters(message),
            Event::Unknown => true,
        }
    }

    /// The way to each address, and the neighbours of ways that its route has beside that one.
    async fn paths(
        &self,
        watched: &HashSet<IpAddr>,
        addresses: &[Address],
    ) -> Result<(HashMap<IpAddr, Result<Path, Why>>, HashSet<Key>), Error> {
        let watched: Vec<IpAddr> = watched.iter().copied().collect();
        let picks = self.socket.routes(&watched).await?;
        let mut paths: HashMap<_, _> = watched.into_iter().zip(picks).collect();

        let memory = &self.memory;
        let open: Vec<IpAddr> = paths
            .iter()
            .filter_map(|(address, pick)| Some((*address, pick.as_ref().ok()?)))
            .filter(|(address, pick)| {
                let broken = |path: &Path| memory.is_broken(path, *address);
                route::must_choose(memory.paths.get(address), pick, broken)
            })
            .map(|(address, _)| address)
            .collect();
        let mut spare = HashSet::new();
        for (address, ways) in open.iter().zip(self.socket.ways(&open).await?) {
            let (Ok(ways), Some(Ok(pick))) = (ways, paths.get_mut(address)) else {
                continue;
            };
            spare.extend(ways.iter().map(|way| key(way, *address)));
            let broken = |path: &Path| memory.is_broken(path, *address);
            let is_ours = |source| addresses.iter().any(|ours| ours.address == source);
            *pick = route::choose(memory.paths.get(address), pick.clone(), &ways, broken, is_ours);
        }
        Ok((paths, spare))
    }

    /// Brings the neighbours of `paths` into memory, asks for those that the kernel doesn't have, and waits a little
    /// for the new ones. `spare` neighbours are kept in memory if they are there: that one of them has failed must not
    /// be forgotten.
    async fn find_neighbours(
        &mut self,
        paths: &HashMap<IpAddr, Result<Path, Why>>,
        spare: &HashSet<Key>,
        entries: &HashMap<Key, Entry>,
    ) -> Result<(), Error> {
        let ready = |key: &Key| {
            self.memory
                .links
                .get(&key.ifindex)
                .is_some_and(|l| hop::ready(l).is_ok())
        };
        let used: HashSet<Key> = paths
            .iter()
            .filter_map(|(address, path)| Some(key(path.as_ref().ok()?, *address)))
            .filter(ready)
            .collect();
        self.memory
            .neighbours
            .retain(|key, _| used.contains(key) || spare.contains(key));
        let (mut new, mut again) = (Vec::new(), Vec::new());
        for key in used {
            let entry = entries.get(&key).copied();
            let before = self.memory.neighbours.get(&key).copied();
            let after = step(before, entry);
            self.memory.neighbours.insert(key, after);
            match (before, after, entry) {
                (None, Known::Asked, _) => new.push(key),
                (_, Known::Asked | Known::Resolved(_), None) => again.push(key),
                _ => {}
            }
        }
        self.ask(&again).await?;
        self.ask(&new).await?;
        self.await_answers(&new).await
    }

    async fn ask(&mut self, keys: &[Key]) -> Result<(), Error> {
        for (key, asked) in keys.iter().zip(self.socket.ask(keys).await?) {
            let known = self.memory.neighbours.get_mut(key);
            match (asked, known) {
                (Asked::Full, Some(known @ Known::Asked)) => *known = Known::Full,
                (Asked::Yes, Some(known @ Known::Full)) => *known = Known::Asked,
                _ => {}
            }
        }
        Ok(())
    }

    async fn await_answers(&mut self, new: &[Key]) -> Result<(), Error> {
        let deadline = Instant::now() + FIRST_ANSWER;
        let mut pause = Duration::from_millis(2);
        while new
            .iter()
            .any(|key| self.memory.neighbours.get(key) == Some(&Known::Asked))
        {
            if Instant::now() + pause > deadline {
                break;
            }
            sleep(pause).await;
            pause = (pause * 2).min(SLOWEST_LOOK);
            let entries = self.socket.neighbours().await?;
            self.memory.see_neighbours(&entries);
        }
        Ok(())
    }

    fn decide(
        &self,
        target: &Target,
        paths: &HashMap<IpAddr, Result<Path, Why>>,
        addresses: &[Address],
    ) -> NextHop {
        let links = &self.memory.links;
        if let Some(via) = &target.via {
            let link = links.values().find(|link| link.name == via.interface);
            let source = link.and_then(|link| link::source(addresses, link.ifindex, target.address));
            return hop::decide_via(target, via, link, source);
        }
        match paths.get(&target.address) {
            Some(Ok(path)) => {
                let known = self.memory.neighbours.get(&key(path, target.address)).copied();
                hop::decide(target, path, links.get(&path.ifindex), known)
            }
            Some(Err(why)) => NextHop::Unresolved(why.clone()),
            // Every address without a `via` was looked up.
            None => NextHop::Unresolved(Why::NoRoute),
        }
    }
}
