# Runs as root for as long as its input lasts, and starts one script after the
# other. Each gets a shell, a time limit, an input and outputs of its own, as if it
# had a session to itself. Parameters: the word that requests begin with, the
# wrapper, and the first request, which is the word in the script's marks, how many
# bytes it gets, the user, the limit in seconds, the name of the operation, the
# script, its arguments.
#
# In Perl, which every Debian has: a shell starts a dozen processes for each script
# to do the same.
use strict;
my ($opener, $wrapper, @request) = @ARGV;
my $as = $ENV{SUDO_USER} || $ENV{DOAS_USER} || "";
my $got = "";
# A shell's idle limit would end the wrapper while it waits to be told to go.
delete $ENV{TMOUT};
# Handlers, unlike what is ignored, are not inherited by scripts.
$SIG{PIPE} = $SIG{CHLD} = sub { };

# more waits for more of the input, and says whether there is any.
sub more {
	while (1) {
		my $n = sysread(STDIN, $got, 65536, length $got);
		return $n > 0 if defined $n;
		return 0 if $! != 4; # EINTR
	}
}

# put writes all of a text, and says whether anybody reads it.
sub put {
	my ($to, $text) = @_;
	while (length $text) {
		my $n = syswrite($to, $text);
		if (defined $n) {
			substr($text, 0, $n, "");
		} elsif ($! != 4) {
			return 0;
		}
	}
	return 1;
}

# words undoes the quoting of a request.
sub words {
	my ($text) = @_;
	my (@words, $word);
	while ($text =~ /\G(?:'([^']*)'|\\(.)|([^ '\\]+)|( +))/gcs) {
		if (!defined $4) {
			$word = (defined $word ? $word : "") . (defined $1 ? $1 : defined $2 ? $2 : $3);
		} elsif (defined $word) {
			push @words, $word;
			undef $word;
		}
	}
	push @words, $word if defined $word;
	return @words;
}

sub run {
	my ($word, $left, $user, $seconds, @script) = @_;
	# The limit holds also if there is no keeper any more.
	my @command = ("timeout", "-k", "5", $seconds, "/bin/sh", "-c", $wrapper, $word, $user, "run", @script);
	@command = ("runuser", "-u", $user, "--", @command) if $user ne "root";
	pipe(my $theirs, my $input) && pipe(my $output, my $out) && pipe(my $errors, my $err) or exit 126;
	my $pid = fork;
	exit 126 if !defined $pid;
	if ($pid == 0) {
		open(STDIN, "<&", $theirs) && open(STDOUT, ">&", $out) && open(STDERR, ">&", $err) or exit 126;
		exec { $command[0] } @command;
		print STDERR "$word absent $command[0]\n";
		exit 127;
	}
	close $theirs;
	close $out;
	close $err;

	my ($pending, $status, $pause) = ("", undef, 0.01);
	# copy passes on what there is of an output. When nobody is left who could
	# write to it, or who would read it, the output is closed.
	my $copy = sub {
		my ($from, $to) = @_;
		my $n = sysread($$from, my $text, 65536);
		return if !defined $n && $! == 4;
		if (!$n || !put($to, $text)) {
			close $$from;
			undef $$from;
		}
	};
	my $ready = sub {
		my $set = "";
		vec($set, fileno $_[0], 1) = 1;
		return select($set, undef, undef, 0) > 0;
	};
	my ($heard, $free) = (1, 0);
	while (1) {
		if (!defined $status && waitpid($pid, 1) == $pid) {
			$status = $? & 127 ? 128 + ($? & 127) : $? >> 8;
			# First what the script itself has said; a pipe holds no more.
			for (1 .. 32) {
				last if !$errors || !$ready->($errors);
				$copy->(\$errors, \*STDERR);
			}
			put(\*STDERR, "\n$word status $status\n");
			close $input if $input;
			undef $input;
		}
		if (!$output && $heard) {
			put(\*STDOUT, "\n$word free\n");
			$heard = 0;
		}
		if (defined $status && !$errors && !$free) {
			put(\*STDERR, "\n$word free\n");
			$free = 1;
		}
		# What the script has not read of its input is nobody's.
		my $part = substr($got, 0, $left, "");
		$left -= length $part;
		$pending = $input ? $pending . $part : "";
		if ($input && $left == 0 && $pending eq "") {
			close $input;
			undef $input;
		}
		last if defined $status && $left == 0 && !$output && !$errors;

		my ($read, $write) = ("", "");
		# When the script has ended, the end of the input is the end, and anything
		# else than that is noise: somebody holds an output.
		my $listen = $left > 0 ? length $pending < 65536 : defined $status;
		vec($read, fileno STDIN, 1) = 1 if $listen;
		vec($read, fileno $output, 1) = 1 if $output;
		vec($read, fileno $errors, 1) = 1 if $errors;
		vec($write, fileno $input, 1) = 1 if $input && $pending ne "";
		# A script's end is mostly that of its outputs, but need not be.
		my $wait = defined $status ? undef : $output || $errors ? 0.5 : $pause;
		$pause = $pause * 2 if !$output && !$errors && $pause < 0.5;
		next if select($read, $write, undef, $wait) <= 0;
		if ($input && $pending ne "" && vec($write, fileno $input, 1)) {
			# As much as a pipe takes at once.
			my $n = syswrite($input, $pending, 4096);
			if (defined $n) {
				substr($pending, 0, $n, "");
			} elsif ($! != 4) {
				close $input;
				undef $input;
			}
		}
		$copy->(\$output, \*STDOUT) if $output && vec($read, fileno $output, 1);
		$copy->(\$errors, \*STDERR) if $errors && vec($read, fileno $errors, 1);
		if ($listen && vec($read, fileno STDIN, 1) && !more()) {
			$left = 0;
			next if !defined $status;
			# Nobody asks for more; what the script has said still counts.
			$copy->(\$output, \*STDOUT) while $output && $ready->($output);
			$copy->(\$errors, \*STDERR) while $errors && $ready->($errors);
			exit 0;
		} elsif ($listen && $left == 0 && $got ne "") {
			exit 125;
		}
	}
}

while (1) {
	run(@request);
	my $end;
	while (($end = index($got, "\n")) < 0) {
		exit 125 if length $got > 4096;
		more() or exit 0;
	}
	# Something else than a request is the rest of one, or noise: nothing that
	# comes now can be trusted.
	substr($got, 0, $end + 1, "") =~ /\A\Q$opener\E ([0-9]+)\n\z/ or exit 125;
	while (length $got < $1) {
		more() or exit 125;
	}
	@request = words(substr($got, 0, $1, ""));
	# sudo has logged the first script only.
	if ($as ne "") {
		my $pid = fork;
		if (defined $pid && $pid == 0) {
			open(STDIN, "<", "/dev/null");
			open(STDOUT, ">", "/dev/null");
			open(STDERR, ">&", \*STDOUT);
			exec "logger", "-t", "pgha", "-p", "authpriv.notice", "--", "$as : USER=$request[2] ; OPERATION=$request[4]";
			exit 127;
		}
		waitpid $pid, 0 if defined $pid;
	}
}
