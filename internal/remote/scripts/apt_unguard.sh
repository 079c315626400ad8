# apt.unguard WAIT: removes a guard that was left behind.
guard_off
