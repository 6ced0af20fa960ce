//! A worker that somebody else controls. It has the service's user, its sandbox, its cgroup and what
//! lies in its directories; what it could gain by them is tried, and must be denied or be known.

use std::fmt::Write as _;

use crate::host::{Host, SOON, until};
use crate::release::{Bad, Build, PROGRAM};

/// Every attempt, from inside the sandbox as systemd makes it. What the README lists as not denied
/// succeeds; everything else fails; and the service serves on.
pub fn gains_nothing_but_what_is_known(host: &mut Host) {
    let mut script = String::from("exec 2>/dev/null\n");
    let attempts: Vec<_> = DENIED.iter().chain(KNOWN).collect();
    for (number, (_, attempt)) in attempts.iter().enumerate() {
        let _ = writeln!(script, "( {attempt} ) && echo gained: {number}");
    }
    script.push_str("echo 'tried everything'\nexit 0\n");
    host.container.write("/etc/handover/intruder.sh", &script);
    // A reload runs it: the user, the sandbox and the cgroup are the unit's own.
    host.drop_in(
        "intruder",
        "[Service]\nExecReload=\nExecReload=/bin/sh /etc/handover/intruder.sh\n",
    );
    host.start();
    let before = host.assert_runs(Build::A);
    let disk = host.disk();
    let mark = "here the intruder comes";
    host.mark_journal(mark);
    host.reload().ok();
    let said = until("the journal has it all", SOON, || {
        let said = host.journal_since(mark);
        said.contains("tried everything").then_some(said)
    });
    let gained: Vec<_> = said
        .lines()
        .filter_map(|line| line.strip_prefix("gained: ")?.parse().ok())
        .map(|number: usize| attempts[number].0)
        .collect();
    let known: Vec<_> = KNOWN.iter().map(|(name, _)| *name).collect();
    assert_eq!(gained, known, "what the README says is not denied");
    assert_eq!(host.assert_runs(Build::A), before);
    assert_eq!(host.disk(), disk);
}

/// Whatever it puts where root's guard looks: the guard keeps only what the main process runs, and puts
/// only what is good in the place of what is not.
pub fn leads_root_nowhere(host: &mut Host) {
    host.start();
    let disk = host.disk();
    let good = format!("reject.$(sha256sum <{PROGRAM} | cut -d \\  -f 1)");
    for trick in [
        "touch commit.x reject.none reject.x",
        "mkdir -p reject.x/a/b commit.x",
        "ln -sfn /etc reject.x; ln -sfn /etc/passwd commit.x",
        "echo /etc/passwd >reject.x; cp /bin/true handover.old; touch handover.good",
        "mkfifo reject.x commit.x",
        "touch commit.x; chmod 0 commit.x",
        "ln -sfn loop reject.x; ln -sfn reject.x loop",
        &format!("touch \"{good}\""),
    ] {
        host.container
            .write("/run/trick", &format!("cd /run/handover\n{trick}\n"));
        host.container
            .sh("exec setpriv --reuid=handover --regid=handover --clear-groups sh -eu /run/trick")
            .ok();
        until(
            &format!("root has removed the triggers of: {trick}"),
            SOON,
            || {
                let gone = "cd /run/handover; for t in reject.* commit.*; do ! [ -e $t ] && ! [ -L $t ] || exit 1; done";
                (host.container.sh(gone).code == 0).then_some(())
            },
        );
        until("the guard has ended", SOON, || {
            let guard = host.systemctl(["is-active", "handover-restore.service"]);
            (guard.stdout.trim_end() == "inactive").then_some(())
        });
        assert_eq!(host.disk(), disk, "{trick}");
        host.container
            .sh("test -s /etc/passwd && test -d /etc/systemd")
            .ok();
    }
    let path = host.systemctl(["is-active", "handover-restore.path"]);
    assert_eq!(path.ok(), "active");
}

/// Anybody may open the program's directory and lock it: root's guard does not wait for that.
pub fn nobody_holds_up_roots_guard(host: &mut Host) {
    host.start();
    let before = host.assert_runs(Build::A);
    let hold = "for f in /usr/lib/handover /usr/lib/handover/guard /usr/lib/handover/bin /usr/lib/handover/bin/*; do
        setpriv --reuid=nobody --clear-groups flock $f sleep 600 & done; wait";
    let mut holder = host.container.spawn(["sh", "-c", hold]).expect("spawned");
    until("they are locked", SOON, || {
        let ran = host
            .container
            .run(["pgrep", "--full", "--count", "^sleep 600"]);
        (ran.stdout.trim() == "5").then_some(())
    });
    host.install(Build::B);
    host.reload().ok();
    let second = host.assert_runs(Build::B);
    assert_ne!(second, before);
    host.handover(&["commit"]).ok();
    host.until_disk_is(Build::B);
    host.kill("KILL", second);
    host.until_another_main(second, SOON);
    host.container.sh("pkill --full '^sleep 600'").ok();
    let _ = holder.wait();
}

/// It names itself the main process, with an image of its own: root does not believe it.
pub fn cannot_have_its_image_kept_or_executed(host: &mut Host) {
    host.start();
    host.assert_runs(Build::A);
    let guard = |verb: &[&str]| {
        let (verb, args) = verb.split_first().expect("a verb");
        let command = ["sh", "/usr/lib/handover/guard", verb, PROGRAM];
        host.container.run(command.iter().chain(args))
    };
    // Its own file, even a true copy; and root's, but from elsewhere.
    for (image, owner) in [("/run/handover/evil", "handover"), ("/opt/evil", "root")] {
        let install = format!("install -o {owner} -m 755 {} {image}", Bad::Hangs.path());
        host.container.sh(&install).ok();
        let mut child = host
            .container
            .spawn([
                "setpriv",
                "--reuid=handover",
                "--clear-groups",
                image,
                "run",
            ])
            .expect("spawned");
        let pid = until("it runs", SOON, || {
            let ran = host
                .container
                .run(["pgrep", "--full", &format!("^{image} run")]);
            ran.stdout.lines().next().map(str::to_owned)
        });
        host.install_file(&Bad::Exits3.path());
        for verb in [&["commit", &*pid][..], &["client", "apply", &pid]] {
            let ran = guard(verb);
            assert!(
                ran.code == 1 && ran.stderr.contains("guard: the running image"),
                "{image}: {ran}"
            );
        }
        let disk = host.disk();
        assert_eq!(
            (disk.old, disk.good),
            (None, Some(Build::A.id())),
            "{image}"
        );
        host.container.run(["kill", "-KILL", &pid]).ok();
        child.wait().expect("gone");
    }
}

/// It takes the control socket's place and answers root's client: first from outside the unit, then
/// from inside. Root writes to no path and signals no process that it names, and nothing that it says
/// commands the terminal.
pub fn answers_in_the_service_s_place_for_nothing(host: &mut Host) {
    host.start();
    let before = host.assert_runs(Build::A);
    let disk = host.disk();
    let passwd = host
        .container
        .sh("sha256sum /usr/bin/passwd")
        .ok()
        .to_owned();
    let mut bystander = host.container.spawn(["sleep", "1000"]).expect("spawned");
    let pid = until("it runs", SOON, || {
        let ran = host.container.run(["pgrep", "--exact", "sleep"]);
        ran.stdout.lines().next().map(str::to_owned)
    });
    host.container.write("/opt/impostor.pl", IMPOSTOR);
    host.container
        .write("/opt/status.json", &lying_status(&pid));
    let orders: [&[&str]; 7] = [
        &["status"],
        &["status", "--json"],
        &["rollback"],
        &["upgrade"],
        &["commit"],
        &["-s", "reopen"],
        &["upgrade", "--binary", "/opt/b"],
    ];
    host.container
        .sh(&format!("cp -p {} /opt/b", Build::B.path()))
        .ok();
    let swap = |how: &str| {
        let script = format!("cd /run/handover; {how}");
        host.container.sh(&script).ok();
    };
    // The owner makes its socket again when nobody is in its place.
    let answers = || {
        until("it answers", SOON, || {
            let marked = host.container.sh("test -e /run/handover/impostor");
            (marked.code == 0).then_some(())
        });
    };
    swap("mv control.sock real.sock");
    // Outside of the unit: it is seen who answers.
    let mut impostor = host
        .container
        .spawn([
            "setpriv",
            "--reuid=handover",
            "--regid=handover",
            "--clear-groups",
            "perl",
            "/opt/impostor.pl",
        ])
        .expect("spawned");
    answers();
    for order in orders {
        let ran = host.handover(order);
        assert_eq!(ran.code, 77, "{order:?}: {ran}");
        assert!(
            ran.stderr.contains("is no process of handover.service"),
            "{ran}"
        );
    }
    impostor.kill().expect("a process");
    impostor.wait().expect("gone");
    host.container.run(["pkill", "--full", "impostor.pl"]);
    // Inside: it is a part of the service, and believed; but what it says is only printed.
    swap("rm -f control.sock impostor");
    host.drop_in(
        "impostor",
        "[Service]\nExecReload=\nExecReload=/bin/sh -c 'perl /opt/impostor.pl & sleep 1'\n",
    );
    host.reload().ok();
    answers();
    for order in orders {
        let ran = host.handover(order);
        let shown = format!("{}{}", ran.stdout, ran.stderr);
        let commands = |c: char| c.is_control() && c != '\n';
        assert!(!shown.contains(commands), "{order:?}: {shown:?}");
    }
    let refused = host.handover(orders[6]);
    assert!(refused.stderr.contains("was not put in place"), "{refused}");
    assert_eq!(host.container.sh("sha256sum /usr/bin/passwd").ok(), passwd);
    assert_eq!(host.disk(), disk);
    assert!(
        bystander.try_wait().expect("ours").is_none(),
        "it was signalled"
    );
    bystander.kill().expect("a process");
    bystander.wait().expect("gone");
    host.container.run(["pkill", "--full", "impostor.pl"]);
    // The owner makes its socket again.
    swap("rm -f control.sock real.sock impostor");
    until("the owner answers", SOON, || {
        let ran = host.handover(&["status"]);
        (ran.code == 0 && ran.stdout.contains("handover:")).then_some(())
    });
    assert_eq!(host.assert_runs(Build::A), before);
}

/// What it answers: root's files as the service's program, somebody else's process as the owner, and
/// commands to the terminal.
fn lying_status(pid: &str) -> String {
    format!(
        "{{\"schema\":1,\"name\":\"handover\",\"owner_pid\":{pid},\"generation\":1,\
         \"version\":\"\\u001b]0;x\\u0007\",\"build_id\":\"a\",\"phase\":\"serving\",\
         \"started_at\":\"\\u009b2J\",\"systemd_main_pid\":{pid},\"listeners\":[],\"masters\":[],\
         \"disk\":{{\"path\":\"/usr/bin/passwd\",\"version\":null,\"build_id\":\"b\",\
         \"matches_running\":false}},\"rollback_to\":{{\"version\":\"\\u001b[2J\",\
         \"build_id\":\"c\"}},\"config\":{{\"path\":null,\"matches_disk\":true}},\
         \"unit_rev\":null,\"upgrade\":null,\"last\":null,\"warnings\":[\"\\u001b[31m\"]}}"
    )
}

const IMPOSTOR: &str = r#"
use Socket;
# USR1: `-s reopen` signals who answers.
$SIG{CHLD} = $SIG{PIPE} = $SIG{USR1} = "IGNORE";
my $path = "/run/handover/control.sock";
unlink $path;
socket(my $s, AF_UNIX, SOCK_STREAM, 0) or die;
umask 0;
bind($s, pack_sockaddr_un($path)) or die;
listen($s, 9) or die;
open(my $mark, ">", "/run/handover/impostor") or die;
open(my $f, "<", "/opt/status.json"); my $status = <$f>;
while (accept(my $c, $s)) {
    sysread($c, my $request, 4096);
    my $body = $request =~ /^POST/
        ? q({"event":"step","generation":1,"phase":"x","message":"\u001b[2J"}
{"event":"result","exit":0,"message":"\u001b]0;x\u0007"}
)
        : $status;
    my $head = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: " . length($body);
    syswrite($c, "$head\r\n\r\n$body");
    close $c;
}
"#;

/// What the sandbox denies; each must fail.
const DENIED: &[(&str, &str)] = &[
    ("order an upgrade", "/usr/bin/handover upgrade"),
    ("order a rollback", "/usr/bin/handover rollback"),
    ("order a stop", "/usr/bin/handover stop"),
    (
        "stop the unit",
        "systemctl --no-ask-password stop handover.service",
    ),
    ("power off", "systemctl --no-ask-password poweroff"),
    (
        "overwrite the program",
        "echo x >/usr/lib/handover/bin/handover",
    ),
    (
        "replace the program",
        "cp /bin/true /usr/lib/handover/bin/x",
    ),
    (
        "plant handover.good",
        "ln -sf /bin/sh /usr/lib/handover/bin/handover.good",
    ),
    (
        "hold the guard's lock",
        "exec 3</usr/lib/handover/bin/handover.lock",
    ),
    ("write the guard", "echo x >>/usr/lib/handover/guard"),
    (
        "write the configuration",
        "echo x >>/etc/handover/handover.toml",
    ),
    ("add configuration", "mkdir -p /etc/handover/conf.d"),
    ("write a unit", "mkdir -p /etc/systemd/system/x.service.d"),
    (
        "write a run-time unit",
        "echo x >/run/systemd/system/x.service",
    ),
    ("write a cron job", "echo x >/etc/crontab"),
    ("read passwords", "cat /etc/shadow"),
    ("read root's home", "ls /root"),
    ("see other users' processes", "test -e /proc/1/comm"),
    ("see the kernel's log", "dmesg"),
    ("see kernel variables", "cat /proc/sys/kernel/hostname"),
    (
        "ptrace a master",
        r#"perl -e 'exit(syscall(101,16,$ENV{MAINPID},0,0)==0?0:1)'"#,
    ),
    (
        "take a master's descriptor",
        r#"perl -e '$p=syscall(434,$ENV{MAINPID}+0,0); exit(1) if $p<0; exit(syscall(438,$p,0,0)>=0?0:1)'"#,
    ),
    ("make a user namespace", "unshare --user true"),
    ("make a mount namespace", "unshare --mount true"),
    ("mount", "mount -t tmpfs tmpfs /run/handover"),
    ("become root", r#"perl -e 'exit(syscall(105,0)==0?0:1)'"#),
    (
        "become another user",
        r#"perl -e 'exit(syscall(105,2)==0?0:1)'"#,
    ),
    (
        "change a file's owner",
        "touch /run/handover/f && chown games /run/handover/f",
    ),
    (
        "make a set-uid file",
        "touch /run/handover/f && chmod u+s /run/handover/f",
    ),
    ("make a device", "mknod /run/handover/d c 1 1"),
    (
        "open a raw socket",
        r#"perl -e 'exit(syscall(41,2,3,1)>=0?0:1)'"#,
    ),
    (
        "open a packet socket",
        r#"perl -e 'exit(syscall(41,17,3,0)>=0?0:1)'"#,
    ),
    (
        "open a netlink socket",
        r#"perl -e 'exit(syscall(41,16,3,0)>=0?0:1)'"#,
    ),
    (
        "have memory to write and execute",
        r#"perl -e 'exit(syscall(9,0,4096,7,0x22,-1,0)>0?0:1)'"#,
    ),
    (
        "load a kernel module",
        r#"perl -e 'syscall(313,0,"",0); exit($!==1?1:0)'"#,
    ),
    (
        "load a BPF program",
        r#"perl -e 'syscall(321,0,0,0); exit($!==1?1:0)'"#,
    ),
    ("set the clock", "date -s @0"),
    ("set the host's name", "hostname x"),
    (
        "raise a process' priority",
        "nice -n -5 true 2>&1 | grep -q . && exit 1; [ $(nice -n -5 nice) -lt 0 ]",
    ),
    ("have real-time priority", "chrt -f 10 true"),
    ("leave the cgroup", "echo 0 >/sys/fs/cgroup/cgroup.procs"),
];

/// What one user cannot deny itself. The README lists these.
const KNOWN: &[(&str, &str)] = &[
    ("signal a master", "kill -0 $MAINPID"),
    (
        "look into a master's memory",
        "test -r /proc/$MAINPID/mem && exec 3</proc/$MAINPID/mem",
    ),
    (
        "speak to systemd in the service's name",
        r#"perl -MSocket -e 'socket(S,AF_UNIX,SOCK_DGRAM,0); $a=$ENV{NOTIFY_SOCKET}||"/run/systemd/notify"; $a=~s/^@/\0/; exit(send(S,"STATUS=intruder",0,pack_sockaddr_un($a))?0:1)'"#,
    ),
    ("ask root's guard", "touch /run/handover/commit.x"),
    ("write to the journal", "echo intruder"),
];
