//! What makes a program its author's own: arguments and commands beside ours, a part of the
//! configuration, a log.

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde::de::DeserializeOwned;

use super::{BoxError, Service};
use crate::cli::args;
use crate::config::{Reader, Room};
use crate::context::Context;
use crate::sys::journal;

type Run = Box<dyn Fn(&clap::ArgMatches) -> Result<ExitCode, clap::Error> + Send + Sync>;

type KeepArguments = fn(&Context, &clap::ArgMatches) -> Result<(), BoxError>;
type KeepConfiguration = fn(&Context) -> Result<(), BoxError>;

/// What the builder was told.
#[derive(Default)]
pub(super) struct Own {
    pub(super) typed: args::Own,
    pub(super) reader: Reader,
    run: Option<Run>,
    /// For the workers: what they keep for the application.
    keep_arguments: Option<KeepArguments>,
    keep_configuration: Option<KeepConfiguration>,
    pub(super) log: Option<Arc<dyn Fn(Log) + Send + Sync>>,
    /// The command line of a test.
    pub(super) given: Vec<OsString>,
}

/// The log of this process, as [`Service::log`] is told of it.
#[derive(Debug)]
pub struct Log {
    journal: bool,
    level: String,
}

impl Log {
    pub(super) fn new(journal: bool, level: &str) -> Self {
        Self {
            journal,
            level: level.into(),
        }
    }

    /// `[log] level`: `error`, `warn`, `info`, `debug` or `trace`.
    #[must_use]
    pub fn level(&self) -> &str {
        &self.level
    }

    /// Whether what is written to standard error is read by the journal.
    #[must_use]
    pub fn is_journal(&self) -> bool {
        self.journal
    }

    /// What this library would do with events, as a layer beside the program's own: to journald with
    /// all fields, where that reads standard error, else as lines. It follows `[log] level`.
    #[must_use]
    pub fn layer<S>(&self) -> impl tracing_subscriber::Layer<S> + Send + Sync + use<S>
    where
        S: tracing::Subscriber + for<'a> tracing_subscriber::registry::LookupSpan<'a> + Send + Sync,
    {
        journal::layer(self.journal, &self.level)
    }
}

impl Service {
    /// Arguments of the program's own for `run`. The command line goes from generation to
    /// generation, and every worker gets them: [`Context::arguments`]. A name that one of ours has
    /// is refused when the program runs.
    ///
    /// ```no_run
    /// use handover::clap::{self, Args};
    ///
    /// #[derive(Args)]
    /// struct Arguments {
    ///     /// Greet in capitals
    ///     #[arg(long)]
    ///     loud: bool,
    /// }
    /// # let service = handover::Service::new("hello");
    /// service.arguments::<Arguments>()
    /// # .run();
    /// ```
    pub fn arguments<A: Args + Send + Sync + 'static>(mut self) -> Self {
        self.own.typed.arguments::<A>();
        self.own.keep_arguments = Some(|context, typed| {
            let arguments = Arc::new(A::from_arg_matches(typed)?);
            context.keep(|| arguments);
            Ok(())
        });
        self
    }

    /// Commands of the program's own, beside ours. `run` is called in the process that was started,
    /// like everything in `main`.
    ///
    /// ```no_run
    /// use std::process::ExitCode;
    /// use handover::clap::{self, Subcommand};
    ///
    /// #[derive(Subcommand)]
    /// enum Commands {
    ///     /// Remove what nobody needs
    ///     Clean,
    /// }
    /// # let service = handover::Service::new("hello");
    /// service.commands(|Commands::Clean| {
    ///     println!("clean");
    ///     ExitCode::SUCCESS
    /// })
    /// # .run();
    /// ```
    pub fn commands<C: Subcommand>(
        mut self,
        run: impl Fn(C) -> ExitCode + Send + Sync + 'static,
    ) -> Self {
        self.own.typed.commands::<C>();
        self.own.run = Some(Box::new(move |typed| Ok(run(C::from_arg_matches(typed)?))));
        self
    }

    /// The table `[application]` of the configuration file is the program's, of this type. `check`,
    /// `run`, a reload and an upgrade's pre-flight read it and show the line where it is wrong; in a
    /// worker it is [`Context::config`]. Without such a table an empty one is read, so what has a
    /// default (`#[serde(default)]`) need not be there.
    ///
    /// ```no_run
    /// #[derive(serde::Deserialize)]
    /// #[serde(deny_unknown_fields)]
    /// struct Settings {
    ///     database: String,
    /// }
    /// # let service = handover::Service::new("hello");
    /// service.config::<Settings>()
    /// # .run();
    /// ```
    pub fn config<T: DeserializeOwned + Send + Sync + 'static>(mut self) -> Self {
        self.own.reader = Reader::of::<T>();
        self.own.keep_configuration = Some(|context| {
            let settings: Arc<T> = Arc::new(context.settings().application.read()?);
            context.keep(|| settings);
            Ok(())
        });
        self
    }

    /// The program's own log instead of ours: `start` installs it, in every master and worker, before
    /// anything is said there. It may start threads. A subscriber that `main` has installed before
    /// [`run`](Self::run) is used as well, and nothing complains.
    ///
    /// ```no_run
    /// use tracing_subscriber::{layer::SubscriberExt as _, util::SubscriberInitExt as _};
    /// # let service = handover::Service::new("hello");
    /// service.log(|log| {
    ///     // Ours, and as many as you like beside it.
    ///     tracing_subscriber::registry().with(log.layer()).init();
    /// })
    /// # .run();
    /// ```
    pub fn log(mut self, start: impl Fn(Log) + Send + Sync + 'static) -> Self {
        self.own.log = Some(Arc::new(start));
        self
    }

    /// One of the program's own commands.
    pub(super) fn run_own(&self, typed: &clap::ArgMatches) -> Result<ExitCode, args::Told> {
        match &self.own.run {
            Some(run) => Ok(run(typed)?),
            None => Ok(ExitCode::FAILURE),
        }
    }

    /// As if it had been started with this file and these arguments: for tests.
    pub(crate) fn started_with(
        mut self,
        configuration: &Path,
        arguments: &[&str],
    ) -> Result<Self, BoxError> {
        self.own.given = arguments.iter().map(Into::into).collect();
        let invocation = self.interpret(&self.own.given);
        let mut globals = invocation.map_err(|told| told.text())?.globals;
        globals.config = Some(configuration.to_owned());
        let loaded = self
            .sources(&globals, &args::Run::default(), Room::default())
            .load()?;
        self.serves(&loaded.config)?;
        self.defaults = loaded.config;
        Ok(self)
    }

    pub(crate) fn given(&self) -> Vec<OsString> {
        self.own.given.clone()
    }

    /// Gives a worker's application what is its own.
    pub(super) fn keep_own(&self, context: &Context) -> Result<(), BoxError> {
        if let Some(keep) = self.own.keep_configuration {
            keep(context)?;
        }
        if let Some(keep) = self.own.keep_arguments {
            let typed = self
                .interpret(context.typed())
                .map_err(|told| told.text())?
                .own;
            keep(context, &typed.unwrap_or_default())?;
        }
        Ok(())
    }
}
