//! `cargo xtask test vm`: the very tests, in the kernels that Debian ships, under qemu.
//!
//! The guest has no disk and no network: kernel from Debian's package, one initramfs with the test programs, a serial
//! console on which it reports. Nothing is attached to anything of the host.

mod guest;
mod image;
mod machine;
mod transcript;

use crate::{host, step};
use anyhow::{Context, Result, bail};
use machine::{Accelerator, End};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use transcript::{Step, Transcript};

/// What is booted where nobody says otherwise: Debian 12's own.
pub(crate) const KERNEL: &str = "6.1";

/// Random packets for each program where nobody says otherwise: an emulated CPU is slow.
const PACKETS: u64 = 20_000;

/// How long a guest may take, by what runs it.
const LIMITS: [(Accelerator, Duration); 2] = [
    (Accelerator::Kvm, Duration::from_secs(240)),
    (Accelerator::Tcg, Duration::from_secs(900)),
];

/// Labs that a guest runs: real agents, attached to veth by BPF links.
const LABS: [&str; 6] = [
    "agent::a_restarted_agent_takes_over_and_writes_no_slot",
    "agent::three_capabilities_are_enough",
    "agent::interfaces_come_go_and_change_their_mode_by_reload",
    "attach::auto_falls_back_to_generic_and_says_so",
    "nodes::packets_leave_by_another_interface",
    "overlay::an_unresolved_backend_lends_its_slots_and_takes_them_back",
];

/// What to boot and to run.
pub(crate) struct Options<'a> {
    /// Kernel versions as Debian's packages are named after them, such as `6.1`.
    pub(crate) kernels: &'a [String],
    /// Only BPF tests whose name contains this, and no lab.
    pub(crate) filter: Option<&'a str>,
    /// For the differential tests.
    pub(crate) packets: Option<u64>,
    /// For the differential tests.
    pub(crate) seed: Option<u64>,
}

/// Boots each kernel and runs the tests there.
///
/// # Errors
/// When a tool, a package or a program can't be had; when a guest fails, panics, takes too long or reports nothing.
pub(crate) fn test(root: &Path, options: &Options<'_>) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("guests are x86-64 ones, and their programs are this host's");
    }
    let mut tools = vec![("cpio", "cpio"), ("xz", "xz-utils")];
    tools.push((machine::QEMU, "qemu-system-x86"));
    host::need_programs(&tools)?;
    let programs = build(root)?;
    let folder = root.join("target/vm");
    let mut failures = Vec::new();
    for kernel in options.kernels {
        let start = Instant::now();
        match boot(&folder, kernel, &programs, options) {
            Ok(summary) => println!("\nLinux {summary}, {} s in all", start.elapsed().as_secs()),
            Err(error) => {
                eprintln!("\nLinux {kernel} FAILED: {error:#}");
                failures.push(kernel.as_str());
            }
        }
    }
    if !failures.is_empty() {
        bail!("failed under Linux {}", failures.join(", "));
    }
    Ok(())
}

/// The test programs and those that labs start.
struct Programs {
    /// (name in the guest, file)
    files: Vec<(&'static str, PathBuf)>,
}

/// Optimised: most of a guest's time goes into these programs.
fn build(root: &Path) -> Result<Programs> {
    let mut cargo = step::cargo(root);
    cargo.args([
        "build",
        "--release",
        "--package",
        "lb-userspace",
        "--package",
        "lb-tests",
        "--bins",
    ]);
    step::run(&mut cargo)?;
    let mut files = Vec::new();
    for name in ["bpf", "lab"] {
        files.push((name, test_program(root, name)?));
    }
    let folder = files[0]
        .1
        .ancestors()
        .nth(2)
        .context("tests are built into a folder")?;
    let bins = ["lbd", "lbctl", "lb-lab"].map(|name| (name, folder.join(name)));
    files.extend(bins);
    Ok(Programs { files })
}

/// Builds a test program; cargo alone knows its file's name.
fn test_program(root: &Path, name: &str) -> Result<PathBuf> {
    let mut cargo = step::cargo(root);
    cargo.args([
        "test",
        "--release",
        "--no-run",
        "--package",
        "lb-tests",
        "--test",
        name,
    ]);
    cargo
        .args(["--message-format", "json-render-diagnostics"])
        .stderr(Stdio::inherit());
    let messages = step::output(&mut cargo)?;
    let executable = messages.lines().rev().find_map(|line| {
        let message: serde_json::Value = serde_json::from_str(line).ok()?;
        // The package's programs, which tests may start, are listed too.
        if message["target"]["kind"] != serde_json::json!(["test"]) || message["target"]["name"] != name {
            return None;
        }
        Some(PathBuf::from(message.get("executable")?.as_str()?))
    });
    executable.with_context(|| format!("cargo names no file for the test {name}"))
}

fn boot(folder: &Path, kernel: &str, programs: &Programs, options: &Options<'_>) -> Result<String> {
    let image = image::obtain(folder, kernel)?;
    let steps = steps(options);
    let initrd = guest::pack(folder, &image, &programs.files, &steps)?;
    println!("\n=== {} ({})", image.package, image.kernel.display());
    for (accelerator, limit) in LIMITS {
        if !accelerator.is_there() {
            eprintln!("xtask: NO /dev/kvm: the guest's CPU is emulated, which takes several times as long");
            continue;
        }
        let mut transcript = Transcript::default();
        let log = folder.join(format!("{}.log", image.package));
        let guest = machine::Guest {
            kernel: &image.kernel,
            initrd: &initrd,
            log: &log,
        };
        match machine::run(&guest, accelerator, limit, &mut transcript)? {
            End::NotUp if accelerator == Accelerator::Kvm => {
                eprintln!(
                    "xtask: /dev/kvm DOES NOT WORK here ({}): the guest's CPU is emulated, which takes several times \
                     as long",
                    log.display()
                );
            }
            end => {
                let summary = transcript
                    .judge(&steps, &end)
                    .with_context(|| format!("{} has all that it said", log.display()))?;
                return Ok(format!("{summary} ({accelerator})"));
            }
        }
    }
    bail!("neither /dev/kvm nor an emulated CPU brought the guest up")
}

/// What a guest does.
fn steps(options: &Options<'_>) -> Vec<Step> {
    let packets = options.packets.unwrap_or(PACKETS);
    let mut bpf = format!("LB_PACKETS={packets} ");
    if let Some(seed) = options.seed {
        bpf.push_str(&format!("LB_SEED={seed} "));
    }
    bpf.push_str("bpf");
    if let Some(filter) = options.filter {
        bpf.push_str(&format!(" '{}'", filter.replace('\'', r"'\''")));
    }
    // Without root a test can't pass: where this one does, a guest's word is worth nothing. (busybox has its own setpriv.)
    let control = "/sbin/setpriv --reuid=65534 --regid=65534 --clear-groups bpf --exact parse::plain_packets";
    let mut steps = vec![Step::fails("control", control), Step::passes("bpf", &bpf)];
    if options.filter.is_none() {
        let lab = format!("LB_BIN_DIR=/bin lab --test-threads=1 --exact {}", LABS.join(" "));
        steps.push(Step::passes("lab", &lab));
    }
    steps
}

/// A command that writes nothing to the terminal but errors.
fn quiet(program: &str) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command
}
