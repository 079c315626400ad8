# ca.promote CURRENT NEXT OLD: puts the authority in the folder NEXT in the place
# of the one in CURRENT, which becomes OLD. Without NEXT there is nothing to do.
if [ -d "$2" ]; then
	if [ -d "$1" ]; then
		if [ -e "$3" ]; then
			echo "$3 is there already: an authority that was replaced before has not been withdrawn" >&2
			exit 1
		fi
		mv -T -- "$1" "$3"
	fi
	mv -T -- "$2" "$1"
	sync -- "$(dirname -- "$1")"
fi
