//! Runs tools such as `ip` and checks their exit codes; an error holds the whole command line.

use std::io::Write;
use std::process::{Child, Command, Output, Stdio};

use crate::error::{IoContext, LabError};
use crate::topo::Family;

/// The command line as a person would type it (without quoting).
pub fn line(command: &Command) -> String {
    let args = command.get_args().map(|a| a.to_string_lossy().into_owned());
    std::iter::once(command.get_program().to_string_lossy().into_owned())
        .chain(args)
        .collect::<Vec<_>>()
        .join(" ")
}

/// Runs the command to its end, whatever its exit code. Standard input is empty.
pub fn output(command: &mut Command) -> Result<Output, LabError> {
    command
        .stdin(Stdio::null())
        .output()
        .map_err(|source| LabError::Spawn {
            command: line(command),
            source,
        })
}

/// Runs the command; an exit code other than 0 is an error. Returns its standard output.
pub fn check(command: &mut Command) -> Result<String, LabError> {
    let out = output(command)?;
    if !out.status.success() {
        let stderr = String::from_utf8_lossy(&out.stderr).trim().to_owned();
        return Err(LabError::Failed {
            command: line(command),
            status: out.status,
            stderr,
        });
    }
    Ok(String::from_utf8_lossy(&out.stdout).into_owned())
}

/// Runs many `ip` commands in one process, inside the namespace when one is given.
/// Stops at the first that fails, and the error quotes it.
pub fn ip_batch(namespace: Option<&str>, lines: &[String]) -> Result<(), LabError> {
    IpBatch::prepare(namespace, None)?.run(lines)
}

/// An `ip` that waits for its commands: what remains to be done at the moment that counts takes less than a millisecond.
#[derive(Debug)]
pub struct IpBatch {
    command: String,
    child: Child,
}

impl IpBatch {
    /// Starts it. With a family for commands, such as those about rules, whose words alone don't say which is meant.
    pub fn prepare(namespace: Option<&str>, family: Option<Family>) -> Result<Self, LabError> {
        let mut command = Command::new("ip");
        if let Some(family) = family {
            command.arg(format!("-{}", family.digit()));
        }
        if let Some(name) = namespace {
            command.args(["-n", name]);
        }
        command
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped());
        let line = line(&command);
        match command.spawn() {
            Ok(child) => Ok(Self { command: line, child }),
            Err(source) => Err(LabError::Spawn {
                command: line,
                source,
            }),
        }
    }

    /// Hands it the commands and waits for its end.
    pub fn run(mut self, lines: &[String]) -> Result<(), LabError> {
        let mut input = self.child.stdin.take().expect("stdin is piped");
        // An early exit of `ip` breaks the pipe; its exit code and message tell more than that error.
        let written = input.write_all((lines.join("\n") + "\n").as_bytes());
        drop(input);
        let command = self.command;
        let out = self.child.wait_with_output().context(|| command.clone())?;
        if !out.status.success() {
            let stderr = String::from_utf8_lossy(&out.stderr).trim().to_owned();
            let refused = refused_line(&stderr)
                .and_then(|n| lines.get(n - 1))
                .map_or("", String::as_str);
            let stderr = format!("{stderr} [{refused}]");
            return Err(LabError::Failed {
                command,
                status: out.status,
                stderr,
            });
        }
        written.context(|| command)
    }
}

/// The number in `Command failed -:17` (counted from 1).
fn refused_line(stderr: &str) -> Option<usize> {
    let (_, rest) = stderr.rsplit_once("Command failed -:")?;
    rest.split_whitespace().next()?.parse().ok().filter(|n| *n > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_refused_line_of_a_batch_is_found() {
        assert_eq!(
            refused_line("Error: any valid prefix is expected.\nCommand failed -:17"),
            Some(17)
        );
        assert_eq!(refused_line("Cannot open network namespace"), None);
        assert_eq!(refused_line("Command failed -:0"), None);
    }

    #[test]
    fn a_failure_names_the_command_and_its_message() {
        let error =
            check(Command::new("sh").args(["-c", "echo broken >&2; exit 3"])).expect_err("exit code 3");
        let text = error.to_string();
        assert!(
            text.contains("sh -c") && text.contains("broken") && text.contains('3'),
            "{text}"
        );
    }
}
