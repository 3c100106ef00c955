//! `Launch`: what the launcher says about this process, read from its environment.

use std::fmt;

use crate::{Error, Result};

/// Port at which the ranks of one machine meet where the launcher names none, as `torchrun` has it.
const PORT: u16 = 29500;

/// Who started the ranks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Launcher {
    /// Nobody: one process alone.
    None,
    /// `torchrun`, or anything that sets `RANK` and `WORLD_SIZE`.
    Torchrun,
    /// OpenMPI's `mpirun`.
    Mpirun,
    /// Slurm's `srun`.
    Slurm,
}

/// Place of this process among all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Launch {
    /// Who started it.
    pub launcher: Launcher,
    /// Its number, from 0.
    pub rank: usize,
    /// Processes of the run.
    pub size: usize,
    /// Its number on this machine, which is that of its GPU.
    pub local_rank: usize,
    /// Processes on this machine.
    pub local_size: usize,
    /// Where rank 0 listens: host and port; absent where the launcher does not say.
    pub master: Option<(String, u16)>,
}

impl Launch {
    /// Reads the environment: `RANK, WORLD_SIZE, LOCAL_RANK, MASTER_ADDR, MASTER_PORT` of `torchrun`,
    /// `OMPI_COMM_WORLD_*` of OpenMPI's `mpirun`, or `SLURM_*` of `srun`, in this order. None of them means
    /// one process alone.
    ///
    /// # Errors
    /// [`Error::InvalidArgument`] that names the variable with an impossible value.
    pub fn from_env() -> Result<Self> {
        Self::read(|name| std::env::var(name).ok())
    }

    fn read(get: impl Fn(&str) -> Option<String>) -> Result<Self> {
        let number = |name: &str| -> Result<Option<usize>> {
            let Some(text) = get(name) else {
                return Ok(None);
            };
            let number = text.trim().parse();
            number.map(Some).map_err(|_| Error::InvalidArgument {
                op: "launch",
                reason: format!("the environment has {name}={text}, which is no number"),
            })
        };
        let torch = (number("RANK")?, number("WORLD_SIZE")?);
        let ompi = (
            number("OMPI_COMM_WORLD_RANK")?,
            number("OMPI_COMM_WORLD_SIZE")?,
        );
        // A shell in a Slurm allocation has SLURM_PROCID too; tasks of a step have a step number.
        let slurm = match get("SLURM_STEP_ID").is_some() {
            true => (number("SLURM_PROCID")?, number("SLURM_STEP_NUM_TASKS")?),
            false => (None, None),
        };
        let (launcher, rank, size, names) = match (torch, ompi, slurm) {
            ((Some(rank), Some(size)), ..) => (
                Launcher::Torchrun,
                rank,
                size,
                ["LOCAL_RANK", "LOCAL_WORLD_SIZE"],
            ),
            (_, (Some(rank), Some(size)), _) => (
                Launcher::Mpirun,
                rank,
                size,
                ["OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE"],
            ),
            (.., (Some(rank), Some(size))) => (
                Launcher::Slurm,
                rank,
                size,
                ["SLURM_LOCALID", "SLURM_NTASKS_PER_NODE"],
            ),
            _ => (Launcher::None, 0, 1, ["", ""]),
        };
        if size == 0 || rank >= size {
            return Err(Error::InvalidArgument {
                op: "launch",
                reason: format!("{launcher} says that this is rank {rank} of {size}"),
            });
        }
        let [local_rank, local_size] = names;
        let one_machine = number("SLURM_STEP_NUM_NODES")? == Some(1);
        let local_size = match (launcher, number(local_size)?) {
            (Launcher::None, _) => 1,
            (Launcher::Slurm, _) if one_machine => size,
            (_, Some(count)) => count,
            (..) => 1,
        };
        let port = number("MASTER_PORT")?
            .map(|port| {
                u16::try_from(port).map_err(|_| Error::InvalidArgument {
                    op: "launch",
                    reason: format!("the environment has MASTER_PORT={port}, beyond 65535"),
                })
            })
            .transpose()?;
        // `torchrun` may hold that port itself, for its own ranks to meet.
        let taken = get("TORCHELASTIC_USE_AGENT_STORE").is_some_and(|v| v == "True");
        let port = port.unwrap_or(PORT).saturating_add(u16::from(taken));
        let host = get("MASTER_ADDR").or_else(|| get("SLURM_LAUNCH_NODE_IPADDR"));
        let host = match local_size == size {
            true => host.or(Some("127.0.0.1".into())),
            false => host,
        };
        Ok(Self {
            launcher,
            rank,
            size,
            local_rank: number(local_rank)?.unwrap_or(0),
            local_size,
            master: host.map(|host| (host, port)),
        })
    }

    /// Whether all ranks are on this machine.
    pub fn is_local(&self) -> bool {
        self.local_size == self.size
    }
}

impl fmt::Display for Launcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "no launcher",
            Self::Torchrun => "torchrun's environment",
            Self::Mpirun => "mpirun",
            Self::Slurm => "Slurm",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(vars: &[(&str, &str)]) -> Result<Launch> {
        Launch::read(|name| {
            let found = vars.iter().find(|(n, _)| *n == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn every_launcher_is_understood() {
        let alone = read(&[("SLURM_PROCID", "0"), ("SLURM_NTASKS", "8")]).unwrap();
        assert_eq!((alone.launcher, alone.size), (Launcher::None, 1));
        let torch = read(&[
            ("RANK", "9"),
            ("WORLD_SIZE", "16"),
            ("LOCAL_RANK", "1"),
            ("LOCAL_WORLD_SIZE", "8"),
            ("MASTER_ADDR", "node-a"),
            ("MASTER_PORT", "1234"),
            ("OMPI_COMM_WORLD_RANK", "3"),
            ("OMPI_COMM_WORLD_SIZE", "4"),
        ])
        .unwrap();
        let want = (9, 16, 1, Some(("node-a".to_owned(), 1234)));
        let got = |l: Launch| (l.rank, l.size, l.local_rank, l.master);
        assert_eq!(got(torch), want);
        let mpi = read(&[
            ("OMPI_COMM_WORLD_RANK", "3"),
            ("OMPI_COMM_WORLD_SIZE", "4"),
            ("OMPI_COMM_WORLD_LOCAL_RANK", "3"),
            ("OMPI_COMM_WORLD_LOCAL_SIZE", "4"),
        ])
        .unwrap();
        assert!(mpi.is_local());
        assert_eq!(got(mpi), (3, 4, 3, Some(("127.0.0.1".into(), PORT))));
        let slurm = read(&[
            ("SLURM_STEP_ID", "0"),
            ("SLURM_PROCID", "5"),
            ("SLURM_STEP_NUM_TASKS", "8"),
            ("SLURM_LOCALID", "1"),
            ("SLURM_LAUNCH_NODE_IPADDR", "10.0.0.1"),
        ])
        .unwrap();
        assert_eq!(got(slurm), (5, 8, 1, Some(("10.0.0.1".into(), PORT))));
    }

    #[test]
    fn impossible_values_are_named() {
        for (vars, word) in [
            ([("RANK", "x"), ("WORLD_SIZE", "2")], "RANK=x"),
            ([("RANK", "2"), ("WORLD_SIZE", "2")], "rank 2 of 2"),
            ([("MASTER_PORT", "70000"), ("A", "")], "MASTER_PORT"),
        ] {
            let error = read(&vars).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
