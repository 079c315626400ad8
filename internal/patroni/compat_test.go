package patroni

import "testing"

func TestRefusesOldPatroni(t *testing.T) {
	for version, want := range map[string]bool{
		"3.3.27": false, "3.4.23": false, "3.4.41": false, "3.4.42": true, "3.5.16": false, "3.5.27": false, "3.5.28": true,
		"3.5.30": true, "3.6.0": false, "3.6.8": false, "3.6.9": true, "3.6.10": true,
	} {
		if got := refusesOldPatroni(version); got != want {
			t.Errorf("%s: %v", version, got)
		}
	}
}
