//! What an application adds to the command line: arguments of `run`, which its workers get, and
//! commands of its own beside ours.

use clap::Command;
use clap::builder::Resettable;

/// What is added.
#[derive(Debug, Clone, Copy, Default)]
pub struct Own {
    /// Arguments of `run`.
    pub arguments: Option<fn(Command) -> Command>,
    /// Commands.
    pub commands: Option<Commands>,
}

/// Commands of the application.
#[derive(Debug, Clone, Copy)]
pub struct Commands {
    augment: fn(Command) -> Command,
    has: fn(&str) -> bool,
}

impl Own {
    /// These arguments.
    pub fn arguments<A: clap::Args>(&mut self) {
        self.arguments = Some(A::augment_args);
    }

    /// These commands.
    pub fn commands<C: clap::Subcommand>(&mut self) {
        self.commands = Some(Commands {
            augment: C::augment_subcommands,
            has: C::has_subcommand,
        });
    }

    pub(super) fn is_own(&self, command: &str) -> bool {
        self.commands.is_some_and(|own| (own.has)(command))
    }

    pub(super) fn add_to(self, mut whole: Command) -> Command {
        if let Some(augment) = self.arguments {
            whole = whole.mut_subcommand("run", |run| saying_the_same(run, augment));
        }
        match self.commands {
            Some(own) => saying_the_same(whole, own.augment),
            None => whole,
        }
    }

    /// What both have: clap would take the one for the other.
    pub fn clash(self) -> Option<String> {
        let empty = || Command::new("own");
        let ours = super::typed_command();
        if let Some(own) = self.commands {
            let theirs = (own.augment)(empty());
            let mut names = theirs.get_subcommands().map(Command::get_name);
            let taken = |name: &&str| *name == "help" || ours.find_subcommand(name).is_some();
            if let Some(name) = names.find(taken) {
                return Some(format!("command `{name}`"));
            }
        }
        let augment = self.arguments?;
        let theirs = augment(empty());
        let run = ours.find_subcommand("run")?;
        let ours: Vec<&clap::Arg> = run.get_arguments().chain(ours.get_arguments()).collect();
        let clash = theirs.get_arguments().find(|their| {
            let same = |our: &&clap::Arg| {
                our.get_id() == their.get_id()
                    || our.get_long().is_some() && our.get_long() == their.get_long()
                    || our.get_short().is_some() && our.get_short() == their.get_short()
            };
            ours.iter().any(same)
        });
        clash.map(|argument| format!("argument `{}`", argument.get_id()))
    }
}

/// A type's doc comment would become the description of what it is added to.
fn saying_the_same(command: Command, augment: fn(Command) -> Command) -> Command {
    let about = Resettable::from(command.get_about().cloned());
    let long_about = Resettable::from(command.get_long_about().cloned());
    augment(command).about(about).long_about(long_about)
}
