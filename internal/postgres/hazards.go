package postgres

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Hazard is what installing a version does not do by itself, and somebody has to.
type Hazard struct {
	Version string // that brought it: "17.11"
	Text    string // what to look at, and what to do
}

func (h Hazard) String() string { return "PostgreSQL " + h.Version + ": " + h.Text }

// What several lines have in common.
const (
	brinNulls   = "BRIN indexes may have lost NULL values: reindex those on columns with NULLs."
	oldIndexes  = "reindex all GiST indexes, B-tree indexes on interval columns (index-only scans may have been wrong), and BRIN minmax_multi indexes on date or timestamp columns (slow, not wrong)."
	gin         = "GIN indexes may have been damaged by updates at the same time: reindex those that you suspect."
	statistics  = "the views pg_stats_ext and pg_stats_ext_exprs show too much in databases that exist already: run fix-CVE-2024-4317.sql, which the package brings, in every database, template0 and template1 included."
	detached    = "tables that were detached from a partitioned table with a foreign key to another partitioned table lack the triggers that enforce it: drop such constraints and add them again."
	selfForeign = "foreign keys of partitioned tables to themselves may not be enforced: drop and add them again. Reindex BRIN bloom indexes."
	brinNumeric = "reindex BRIN indexes with numeric_minmax_multi_ops."
	august2026  = "logical decoding takes pgoutput and test_decoding only: if consumers use another plugin, set output_plugin_libraries before the update, or they stop. " +
		"Reindex indexes of btree_gist and ltree. What pgcrypto's pgp functions have encrypted with a cipher that OpenSSL refused is not decrypted any more, and was not safe: see ignore-cipher-failure."
	november2026 = "several bugs may have damaged indexes: go through the release notes for REINDEX, B-tree indexes on character(n) columns among them. Extensions in C that work with composite types may have to be rebuilt."
)

// notes are what the release notes of PostgreSQL ask for after an update within a
// major version (PostgreSQL documentation, appendix "Release Notes", the sections
// "Migration to Version" and the entries that they point to), by major and minor
// version. Versions that ask for nothing are left out.
var notes = map[int]map[int]string{
	15: {
		1: "files of tables larger than 1 GiB that were dropped on replicas may have stayed behind and take up space.",
		4: brinNulls, 5: oldIndexes, 6: gin, 7: statistics, 9: detached, 13: selfForeign, 14: brinNumeric, 19: august2026, 20: november2026,
	},
	16: {1: oldIndexes, 2: gin, 3: statistics, 5: detached, 9: selfForeign, 10: brinNumeric, 15: august2026},
	17: {
		1: detached + " Where a database has LC_CTYPE C and another LC_COLLATE, reindex the indexes on text.",
		5: selfForeign, 6: brinNumeric, 11: august2026,
	},
	18: {
		2: "indexes on ltree columns may have to be rebuilt: reindex them.",
		6: august2026 + " The number of rows that is noted of tables with GIN indexes may be wrong: ANALYZE them.",
		7: november2026 + " Incremental backups from before are not to be trusted: take a full one.",
	},
}

// newest is the last minor version of each line whose notes are in the list.
var newest = map[int]int{15: 20, 16: 15, 17: 11, 18: 7}

// Hazards are those on the way from one minor version to another of the same major
// version, in the order of the versions. For a way back they say what it undoes.
// It is pure.
func Hazards(from, to string) []Hazard {
	major, old, ok1 := minor(from)
	same, next, ok2 := minor(to)
	if !ok1 || !ok2 || major != same || old == next {
		return nil
	}
	if next < old {
		return []Hazard{{from, fmt.Sprintf("going back to %s brings back what was mended since, security included. The data is read by both; what only the newer one knows, such as new settings, has to be taken back before.", to)}}
	}
	var list []Hazard
	for at, text := range notes[major] {
		if at > old && at <= next {
			list = append(list, Hazard{fmt.Sprintf("%d.%d", major, at), text})
		}
	}
	slices.SortFunc(list, func(a, b Hazard) int {
		_, x, _ := minor(a.Version)
		_, y, _ := minor(b.Version)
		return cmp.Compare(x, y)
	})
	if last, listed := newest[major]; !listed || next > last {
		list = append(list, Hazard{to, "its release notes are not known to this release of the provider: read the section on migration in them."})
	}
	return list
}

// minor reads "17.11".
func minor(version string) (major, patch int, ok bool) {
	a, b, found := strings.Cut(version, ".")
	major, err1 := strconv.Atoi(a)
	patch, err2 := strconv.Atoi(b)
	return major, patch, found && err1 == nil && err2 == nil
}
