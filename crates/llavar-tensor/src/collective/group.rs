//! `Group`: all ranks of a run, as one of them sees them.

use std::{sync::Mutex, time::Duration};

use super::{
    Collective, Launch, Launcher, Single,
    control::{Control, host_name},
    mpi::MpiCollective,
};
use crate::{Device, Error, Result, Tensor};

/// How long a rank may be silent, seconds, where `LLAVAR_RANK_TIMEOUT` does not say.
const TIMEOUT: f64 = 60.0;
/// Bytes in which rank 0's address is told to the others.
const ADDRESS: usize = 256;

/// Collective operations and control channel of a run.
#[derive(Debug)]
pub struct Group {
    collective: Box<dyn Collective>,
    control: Option<Control>,
    /// Whether this rank has said farewell.
    left: Mutex<bool>,
}

impl Group {
    /// One process alone on the CPU.
    pub fn single() -> Self {
        Self::alone(Device::Cpu)
    }

    fn alone(device: Device) -> Self {
        Self {
            collective: Box::new(Single(device)),
            control: None,
            left: Mutex::new(true),
        }
    }

    /// Comes together with the ranks that the launcher started, each on its device: MPI where that is the
    /// CPU, NCCL where it is a GPU. Waits for all of them. A rank that is silent for `LLAVAR_RANK_TIMEOUT`
    /// seconds (60) is lost, and with it the run.
    ///
    /// # Errors
    /// [`Error::Collective`] that names the rank that did not come, or the library that is missing.
    pub fn join(launch: &Launch, device: &Device) -> Result<Self> {
        if launch.size == 1 {
            return Ok(Self::alone(device.clone()));
        }
        let timeout = timeout()?;
        let (collective, control): (Box<dyn Collective>, _) = match device.as_cuda() {
            None => {
                let mut mpi = MpiCollective::start()?;
                check_mpi(launch, &mpi)?;
                let control = meet_over_mpi(launch, &mpi, timeout)?;
                mpi.set_watch(control.watch());
                (Box::new(mpi), control)
            }
            Some(cuda) => {
                let control = meet_at_master(launch, timeout)?;
                let nccl = crate::cuda::NcclCollective::join(
                    cuda,
                    launch,
                    |id| {
                        let all = control.exchange(id)?;
                        Ok(all.into_iter().next().unwrap_or_default())
                    },
                    control.watch(),
                )?;
                (Box::new(nccl), control)
            }
        };
        Ok(Self {
            collective,
            control: Some(control),
            left: Mutex::new(false),
        })
    }

    /// Number of this rank, from 0.
    pub fn rank(&self) -> usize {
        self.collective.rank()
    }

    /// Number of ranks.
    pub fn size(&self) -> usize {
        self.collective.size()
    }

    /// Whether this is rank 0, which logs and publishes for all.
    pub fn is_first(&self) -> bool {
        self.rank() == 0
    }

    /// The operations on tensors.
    pub fn collective(&self) -> &dyn Collective {
        &*self.collective
    }

    /// What every rank gives, by rank, without the device: for small agreements. All ranks call it in the
    /// same order.
    ///
    /// # Errors
    /// [`Error::RankLost`].
    pub fn exchange(&self, words: &[u8]) -> Result<Vec<Vec<u8>>> {
        match &self.control {
            None => Ok(vec![words.to_vec()]),
            Some(control) => control.exchange(words),
        }
    }

    /// Whether all ranks are alive, as far as is known.
    ///
    /// # Errors
    /// [`Error::RankLost`].
    pub fn check(&self) -> Result<()> {
        self.control
            .as_ref()
            .map_or(Ok(()), |control| control.watch().check())
    }

    /// Says farewell. Without a failure it waits for all ranks to do so; with one the others end with
    /// [`Error::RankLost`] that repeats `failure`. Further calls do nothing.
    ///
    /// # Errors
    /// [`Error::RankLost`].
    pub fn leave(&self, failure: Option<&str>) -> Result<()> {
        let mut left = self
            .left
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner);
        if std::mem::replace(&mut *left, true) {
            return Ok(());
        }
        let Some(control) = &self.control else {
            return Ok(());
        };
        if let Some(failure) = failure {
            control.leave(Some(failure));
            return Ok(());
        }
        let closed = self.collective.close();
        control.leave(None);
        closed
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // Whoever goes without a word has failed: the others must not wait for it.
        let _ = self.leave(Some("it stopped before the end of the run"));
    }
}

fn timeout() -> Result<Duration> {
    let seconds = match std::env::var("LLAVAR_RANK_TIMEOUT") {
        Err(_) => TIMEOUT,
        Ok(text) => match text.trim().parse() {
            Ok(seconds) if (0.1..=86_400.0).contains(&seconds) => seconds,
            _ => {
                return Err(Error::InvalidArgument {
                    op: "launch",
                    reason: format!(
                        "LLAVAR_RANK_TIMEOUT={text}: seconds from 0.1 to 86400 are allowed"
                    ),
                });
            }
        },
    };
    Ok(Duration::from_secs_f64(seconds))
}

/// MPI knows only ranks that were started for it.
fn check_mpi(launch: &Launch, mpi: &MpiCollective) -> Result<()> {
    if (mpi.rank(), mpi.size()) == (launch.rank, launch.size) {
        return Ok(());
    }
    let advice = match launch.launcher {
        Launcher::Torchrun => "on CPUs start the ranks with `mpirun -n N llavar train ..`",
        Launcher::Slurm => {
            "start the ranks with `srun --mpi=pmix` (see `srun --mpi=list`), or with mpirun"
        }
        _ => "is the mpirun of another MPI first on the PATH?",
    };
    Err(Error::Collective {
        op: "MPI",
        reason: format!(
            "{} says rank {} of {}, MPI says {} of {}: {advice}",
            launch.launcher,
            launch.rank,
            launch.size,
            mpi.rank(),
            mpi.size()
        ),
    })
}

/// Rank 0 tells its address through MPI.
fn meet_over_mpi(launch: &Launch, mpi: &MpiCollective, timeout: Duration) -> Result<Control> {
    let bind = if launch.is_local() {
        "127.0.0.1"
    } else {
        "0.0.0.0"
    };
    let (mut text, mut listener) = (String::new(), None);
    if launch.rank == 0 {
        let listening = Control::listen(bind, 0)?;
        let port = listening.local_addr().map_or(0, |a| a.port());
        let host = match launch.is_local() {
            true => bind.to_owned(),
            false => host_name(),
        };
        text = format!("{host} {port}");
        listener = Some(listening);
    }
    let mut words = [0i32; ADDRESS];
    for (word, byte) in words.iter_mut().zip(text.bytes()) {
        *word = i32::from(byte);
    }
    let mut words = Tensor::from_vec(words.to_vec(), &[ADDRESS])?;
    mpi.broadcast(&mut words, 0)?;
    if let Some(listener) = listener {
        return Control::gather(&listener, launch.size, timeout);
    }
    let bytes = words.data::<i32>()?.iter().take_while(|w| **w > 0);
    let text = String::from_utf8_lossy(&bytes.map(|w| *w as u8).collect::<Vec<_>>()).into_owned();
    let address = text
        .split_once(' ')
        .and_then(|(host, port)| Some((host, port.parse().ok()?)));
    let address = address.ok_or_else(|| Error::Collective {
        op: "meeting of the ranks",
        reason: format!("rank 0 gave `{text}` as its address"),
    })?;
    Control::go_to(address, launch.rank, launch.size, timeout)
}

/// Rank 0 listens where the launcher says.
fn meet_at_master(launch: &Launch, timeout: Duration) -> Result<Control> {
    let Some((host, port)) = &launch.master else {
        return Err(Error::Collective {
            op: "meeting of the ranks",
            reason: format!(
                "{} started ranks on several machines; set MASTER_ADDR to the machine of rank 0, and MASTER_PORT",
                launch.launcher
            ),
        });
    };
    if launch.rank > 0 {
        return Control::go_to((host, *port), launch.rank, launch.size, timeout);
    }
    let bind = if launch.is_local() {
        "127.0.0.1"
    } else {
        "0.0.0.0"
    };
    let listener = Control::listen(bind, *port)?;
    Control::gather(&listener, launch.size, timeout)
}
