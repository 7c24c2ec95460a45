/*
 * The ledger's word (ARCHITECTURE.md, "The ledger's word"; src/ledger/shared.h has the real thing).
 *
 * Every `d_step` and every single statement is one atomic action of the real protocol: a load, a store or a
 * compare-and-swap. A process may be killed between any two of them (`unless`). What is checked:
 *   L1  committed <= limit, in every state;
 *   G   at each successful compare-and-swap, what the initiator wrote is what the change means: `truth` holds, per slot,
 *       the pages that its owner has by all changes so far. So no charge is returned twice and none is invented;
 *   L2  when all is quiet: committed == sum of the entries == sum of the truth, nothing is left of the dead, and no
 *       slot of a dead process stays taken;
 *   progress: a cycle in the state graph would be a livelock; pan -l finds it, since every process does a
 *       bounded number of operations and nothing here is a progress state.
 * Sequences are not modelled as coming round: there are 2^48.
 *
 * SCENE selects who takes part (one model of everything would be too large); BUG_* seed errors that must be found.
 */
#ifndef SCENE
#define SCENE 1
#endif

#define SLOTS 6
#define FORKED (SCENE >= 3) /* scenes with families */
#define FAMILY 2 /* what no living owner is charged with; has no owner */
#define FREE 0
#define LIVE 1
#define NOBODY 9

#ifndef LIMIT
#define LIMIT 2
#endif

/* The word: two halves that change as one but are read one after the other. */
byte word_committed, word_slot = NOBODY, word_seq;

typedef record_t {
	byte seq; /* 0: being written */
	byte count;
	byte slot[2];
	byte pages[2]
};
record_t record[SLOTS];

byte entry_value[SLOTS], entry_seq[SLOTS];
byte state[SLOTS];  /* FREE, LIVE */
byte birth[SLOTS];  /* counts the owners: part of the state's word */
byte holder[SLOTS]; /* who holds the byte lock: a process number, 0 nobody. The kernel clears it at death */

byte holding[SLOTS]; /* inherited pages that the owner still has */
byte lineage[SLOTS]; /* parent slot + 1; 0: none */
byte reparentings;

/* Ghosts: no process looks at them. */
#if FORKED
byte page[2]; /* bit n: in the address space of process n */
#define PHYSICAL ((page[0] != 0 -> 1 : 0) + (page[1] != 0 -> 1 : 0))
#define CHECK_PHYSICAL assert(PHYSICAL <= word_committed) /* what is there is charged */
#else
#define CHECK_PHYSICAL skip
#endif
byte truth[SLOTS];
byte owner[SLOTS]; /* whose slot it is, as opposed to who locks its byte */
byte dying; /* process number of whom the killer has chosen */
byte running;
bool died;

/* ---- one process's local variables, as macros so that inlines can share them ---- */
#define LOCALS                                                                                                         \
	byte w_committed, w_slot, w_seq;                                                                               \
	byte c_slot0, c_value0, c_slot1, c_value1, c_count, e_value, e_seq;                                            \
	byte value, born, target, gone, held;                                                                                          \
	bool swapped, answer

#define CLEAR_WORD w_committed = 0; w_slot = 0; w_seq = 0; swapped = false
#define CLEAR_HELD held = 0
#define CLEAR_COPY                                                                                                     \
	c_slot0 = 0; c_value0 = 0; c_slot1 = 0; c_value1 = 0; c_count = 0; e_value = 0; e_seq = 0

inline read_word()
{
	/* high half first */
	d_step { w_slot = word_slot; w_seq = word_seq };
	w_committed = word_committed
}

/* One entry of a change: swap it to the new value unless it has had this change already. */
inline complete_entry(spot, fresh, number)
{
	e_seq = entry_seq[spot];
	if
#ifdef BUG_STALE_HELPER
	:: true ->
#else
	:: e_seq < number ->
#endif
		e_value = entry_value[spot];
		d_step {
			if
			:: entry_value[spot] == e_value && entry_seq[spot] == e_seq ->
				entry_value[spot] = fresh;
				entry_seq[spot] = number
			:: else
			fi
		}
#ifndef BUG_STALE_HELPER
	:: else
#endif
	fi
}

/* Complete change @number of slot @by, if it is not complete. The copy is used only if the record still was that change's. */
inline complete(by, number)
{
	if
	:: by == NOBODY
	:: else ->
		if
		:: record[by].seq != number /* its owner has gone on, so it is complete */
		:: else ->
			d_step { c_count = record[by].count; c_slot0 = record[by].slot[0]; c_value0 = record[by].pages[0] };
			d_step { c_slot1 = record[by].slot[1]; c_value1 = record[by].pages[1] };
			if
#ifdef BUG_NO_RECHECK
			:: true ->
#else
			:: record[by].seq == number ->
#endif
				complete_entry(c_slot0, c_value0, number);
				if
				:: c_count == 2 -> complete_entry(c_slot1, c_value1, number)
				:: else
				fi
#ifndef BUG_NO_RECHECK
			:: else
#endif
			fi
		fi
	fi;
	d_step { CLEAR_COPY }
}

inline complete_previous(me)
{
#if defined(BUG_NO_HELP)
	skip
#elif defined(BUG_WAIT_FOR_OWNER)
	do
	:: w_slot == NOBODY || entry_seq[w_slot] >= w_seq -> break
	:: else
	od
#else
#ifdef BUG_RECORD_REUSE
	/* "Mine, so I have seen to it": true only if nothing is ever left for others to complete. */
	if
	:: w_slot == me
	:: else -> complete(w_slot, w_seq)
	fi
#else
	complete(w_slot, w_seq)
#endif
#endif
}

inline complete_own(me)
{
#ifdef BUG_RECORD_REUSE
	skip
#else
	complete(me, w_seq + 1)
#endif
}

/* Announce: the sequence goes last, and first it is taken away. */
inline write_record(by, entries, spot0, fresh0, spot1, fresh1)
{
	record[by].seq = 0;
	d_step { record[by].count = entries; record[by].slot[0] = spot0; record[by].pages[0] = fresh0 };
	d_step { record[by].slot[1] = spot1; record[by].pages[1] = fresh1 };
	record[by].seq = w_seq + 1
}

/* The word still is what was read: then nothing has been changed since. */
#define WORD_IS_UNCHANGED (word_committed == w_committed && word_slot == w_slot && word_seq == w_seq)

#define SWAP_WORD(me, to)                                                                                              \
	word_committed = to; word_slot = me; word_seq = w_seq + 1; swapped = true;                                     \
	assert(word_committed <= LIMIT) /* L1 */

inline commit(me, n)
{
	answer = false;
	do
	:: true ->
		read_word();
		complete_previous(me);
		if
		:: w_committed + n > LIMIT ->
			if
			:: WORD_IS_UNCHANGED -> break /* no */
			:: else /* perhaps torn: look again */
			fi
		:: else ->
			value = entry_value[me];
			write_record(me, 1, me, value + n, 0, 0);
#ifdef BUG_CHECK_THEN_ADD
			d_step { w_committed = word_committed; w_slot = word_slot; w_seq = word_seq };
			record[me].seq = w_seq + 1;
#endif
			d_step {
				swapped = false;
				if
				:: WORD_IS_UNCHANGED ->
#ifdef BUG_CHECK_THEN_ADD
					word_committed = word_committed + n; word_slot = me; word_seq = w_seq + 1;
					swapped = true;
					assert(word_committed <= LIMIT);
#else
					SWAP_WORD(me, w_committed + n);
#endif
					assert(value == truth[me]); /* G */
					truth[me] = truth[me] + n
				:: else
				fi
			};
			if
			:: swapped -> complete_own(me); answer = true; break
			:: else
			fi
		fi
	od;
	skip;
	d_step { value = 0; CLEAR_WORD }
}

/* Give back @n pages of slot @from, which @me may write. */
inline uncommit(me, n)
{
	do
	:: true ->
		read_word();
		complete_previous(me);
		value = entry_value[me];
		if
		:: value < n || w_committed < n -> 
			assert(!WORD_IS_UNCHANGED) /* else the charge has been given back behind our back */
		:: else ->
			write_record(me, 1, me, value - n, 0, 0);
			d_step {
				swapped = false;
				if
				:: WORD_IS_UNCHANGED ->
					SWAP_WORD(me, w_committed - n);
					assert(value == truth[me]); /* G */
					truth[me] = truth[me] - n;
					CHECK_PHYSICAL
				:: else
				fi
			};
			if
			:: swapped -> complete_own(me); break
			:: else
			fi
		fi
	od;
	skip;
	d_step { value = 0; CLEAR_WORD }
}

/* Two slots in one change: @n pages of @me become the family's. */
inline transfer(me, n)
{
	do
	:: true ->
		read_word();
		complete_previous(me);
		value = entry_value[me];
		target = entry_value[FAMILY];
		if
		:: value < n -> assert(!WORD_IS_UNCHANGED)
		:: else ->
			write_record(me, 2, me, value - n, FAMILY, target + n);
			d_step {
				swapped = false;
				if
				:: WORD_IS_UNCHANGED ->
					SWAP_WORD(me, w_committed);
					assert(value == truth[me] && target == truth[FAMILY]); /* G */
					truth[me] = truth[me] - n;
					truth[FAMILY] = truth[FAMILY] + n
				:: else
				fi
			};
			if
			:: swapped -> complete_own(me); break
			:: else
			fi
		fi
	od;
	skip;
	d_step { value = 0; target = 0; CLEAR_WORD }
}

/* How much of the family's the living members but @except still hold: read slot by slot, while they go on. */
#define HELD(at, except)                                                                                               \
	if                                                                                                             \
	:: except != at && state[at] == LIVE -> held = held + holding[at]                                              \
	:: else                                                                                                        \
	fi
inline count_held(except)
{
	held = 0;
#if FORKED
	HELD(0, except);
	HELD(1, except);
	HELD(3, except)
#endif
}

/* Trim the family's share to what living members hold: anybody may. */
inline trim_family(me)
{
	do
	:: true ->
		read_word();
		complete_previous(me);
		target = entry_value[FAMILY];
		count_held(NOBODY);
		d_step {
			gone = (target > held -> target - held : 0);
			CLEAR_HELD
		};
		if
		:: gone == 0 -> break
		:: gone > w_committed /* torn */
		:: else ->
			write_record(me, 1, FAMILY, target - gone, 0, 0);
			d_step {
				swapped = false;
				if
				:: WORD_IS_UNCHANGED ->
					SWAP_WORD(me, w_committed - gone);
					assert(target == truth[FAMILY]); /* G */
					truth[FAMILY] = target - gone;
					CHECK_PHYSICAL
				:: else
				fi
			};
			if
			:: swapped -> complete_own(me); break
			:: else
			fi
		fi
	od;
	skip;
	d_step { target = 0; gone = 0; CLEAR_WORD }
}

/* The children of the dead become its parent's. */
#define REPARENT(at, dead)                                                                                             \
	d_step {                                                                                                       \
		if                                                                                                     \
		:: lineage[at] == dead + 1 -> lineage[at] = lineage[dead]                                              \
		:: else                                                                                                \
		fi                                                                                                     \
	}

/* Has @me a living child, in the page's epoch or later? Slot by slot, while children die and theirs take their place. */
#define PIN(at, me)                                                                                                    \
	if                                                                                                             \
	:: lineage[at] == me + 1 ->                                                                                    \
		if                                                                                                     \
		:: state[at] == LIVE -> answer = true                                                                  \
		:: else                                                                                                \
		fi                                                                                                     \
	:: else                                                                                                        \
	fi
inline pin(me)
{
	do
	:: true ->
		born = reparentings;
		answer = false;
		PIN(1, me);
		PIN(3, me);
		if
		:: answer || reparentings == born -> break
		:: else
		fi
	od;
	skip;
	born = 0
}

/*
 * Collect slot @dead if its process has died. Its state is read first, then who holds its lock, then the word: so a dead
 * owner's last change is complete before the slot is freed, and if the slot has a new owner by then, either the state
 * says so or that owner's first commit makes the compare-and-swap fail.
 */
inline collect(me, dead)
{
	d_step { born = birth[dead]; answer = (state[dead] == LIVE) };
	if
	:: answer -> answer = (holder[dead] == 0)
	:: else
	fi;
#ifdef BUG_DOUBLE_COLLECT
	value = entry_value[dead];
#endif
	do
	:: !answer -> break
	:: else ->
#ifdef BUG_REUSE_BEFORE_COMPLETE
		if
		:: entry_value[dead] == 0 -> break
		:: else
		fi;
#endif
		read_word();
		complete_previous(me);
#ifndef BUG_NO_GENERATION
		answer = (state[dead] == LIVE && birth[dead] == born);
		if
		:: !answer -> break
		:: else
		fi;
#endif
#ifndef BUG_DOUBLE_COLLECT
		value = entry_value[dead];
#endif
		target = entry_value[FAMILY];
		count_held(dead);
		d_step {
			gone = (value + target > held -> value + target - held : 0);
			CLEAR_HELD
		};
		if
#if !FORKED || defined(BUG_QUIET_BEQUEST)
		:: value == 0 && gone == 0 -> break
		:: else
#else
		/* The word changes all the same: who is adding up what members hold must see that this one is gone. */
		:: true
#endif
		fi;
		write_record(me, 2, dead, 0, FAMILY, target + value - gone);
		d_step {
			swapped = false;
			if
			:: WORD_IS_UNCHANGED ->
				assert(value == truth[dead] && target == truth[FAMILY]); /* G: not twice */
				assert(birth[dead] == born); /* G: and not a newcomer's */
				SWAP_WORD(me, w_committed - gone);
				truth[dead] = 0;
				truth[FAMILY] = target + value - gone;
				CHECK_PHYSICAL
			:: else
			fi
		};
		if
		:: swapped -> complete_own(me); break
		:: else
		fi
	od;
	skip;
	if
	:: answer ->
#if SCENE == 4
		REPARENT(0, dead);
		REPARENT(1, dead);
		REPARENT(3, dead);
#ifndef BUG_NO_REPARENT_COUNT
		reparentings = reparentings + 1;
#endif
#endif
		d_step {
			if
			:: state[dead] == LIVE && birth[dead] == born ->
				assert(truth[dead] == 0);
				state[dead] = FREE
			:: else
			fi
		}
	:: else
	fi;
	d_step { value = 0; born = 0; target = 0; gone = 0; answer = false; CLEAR_WORD }
}

/* Take slot @at as process @who: first the lock, which is what others ask about, then the slot. answer: got it. */
inline join(who, at)
{
	answer = false;
	d_step {
		if
		:: holder[at] == 0 -> holder[at] = who; swapped = true
		:: else -> swapped = false
		fi
	};
	if
	:: swapped ->
		d_step {
			if
			:: state[at] == FREE -> state[at] = LIVE; birth[at] = birth[at] + 1; owner[at] = who; answer = true
			:: else -> swapped = false
			fi
		};
		if
		:: !answer -> holder[at] = 0
		:: else
		fi
	:: else
	fi;
	d_step { swapped = false }
}

/* The kernel lets go of the memory, and then of the locks. */
#if FORKED
#define PAGES_GO(who) page[0] = page[0] & (255 - (1 << who)); page[1] = page[1] & (255 - (1 << who))
#define LOCKS_GO(who)                                                                                                  \
	holder[0] = (holder[0] == who -> 0 : holder[0]);                                                               \
	holder[1] = (holder[1] == who -> 0 : holder[1])
#else
#define PAGES_GO(who) skip
#define LOCKS_GO(who) skip
#endif
#define DIES(who, at)                                                                                                  \
	d_step {                                                                                                       \
		dying == who;                                                                                          \
		died = true;                                                                                           \
		PAGES_GO(who);                                                                                         \
		LOCKS_GO(who);                                                                                         \
		holder[at] = (holder[at] == who -> 0 : holder[at]);                                                    \
		running = running - 1                                                                                  \
	}

#define SETTLED(at, who) state[at] = LIVE; holder[at] = who; owner[at] = who
#define ENDS(who)                                                                                                      \
	d_step { running = running - 1; if :: dying == who -> dying = 0 :: else fi }

/* Kills one process at some instant, or none. */
proctype killer(byte first, last)
{
	if
	:: dying = first
	:: last != first -> dying = last
	:: true
	fi
}

/* Alone at the end: what is dead is collected, then the books must balance. */
inline settle()
{
	collect(4, 0);
	collect(4, 1);
	collect(4, 3);
	collect(4, 5);
	trim_family(4);
	d_step {
		assert(word_committed == entry_value[0] + entry_value[1] + entry_value[2] + entry_value[3] + entry_value[4] + entry_value[5]); /* L2 */
		value = 0;
		do
		:: value < SLOTS ->
			assert(entry_value[value] == truth[value]);
			assert(holder[value] != 0 || state[value] == FREE);
			assert(holder[value] != 0 || value == FAMILY || truth[value] == 0);
			assert(state[value] != LIVE || holder[value] == owner[value]);
			value = value + 1
		:: else -> break
		od;
		value = 0
	}
}

proctype auditor()
{
	LOCALS;
	(running == 0);
	settle()
}

#if SCENE == 1 /* Two members change the word against each other; either is killed anywhere. */
proctype a_member(byte who, at)
{
	LOCALS;
	{
		commit(at, 1);
		if
		:: answer ->
			if
			:: uncommit(at, 1)
			:: transfer(at, 1)
			fi
		:: else
		fi;
#ifndef BRIEF
		commit(at, 1);
#endif
		ENDS(who)
	} unless { DIES(who, at) }
}
init
{
	atomic {
		SETTLED(0, 1); SETTLED(1, 2); SETTLED(4, 6);
		running = 2;
		run a_member(1, 0); run a_member(2, 1); run killer(1, 2); run auditor()
	}
}
#endif

#if SCENE == 2 /* One dies; two collect its slot at once, and one of them may die too; a newcomer takes it as soon as it may. */
proctype mortal(byte who, at)
{
	LOCALS;
	{
		commit(at, 1);
		dying == who /* lives on until it is killed */
	} unless { DIES(who, at) }
}
proctype collector(byte who, at)
{
	LOCALS;
	{
		collect(at, 1);
		ENDS(who)
	} unless { DIES(who, at) }
}
proctype newcomer(byte who, at)
{
	LOCALS;
	join(who, at);
	if
	:: answer -> commit(at, 1)
	:: else
	fi;
	running = running - 1
}
proctype executioner()
{
	dying = 2;
#ifndef BRIEF
	died;
	d_step { died = false; dying = 0 };
	if
	:: dying = 1
	:: true
	fi
#endif
}
init
{
	atomic {
		SETTLED(0, 1); SETTLED(1, 2); SETTLED(3, 4); SETTLED(4, 6);
		running = 4;
		run mortal(2, 1); run collector(1, 0); run collector(4, 3); run newcomer(5, 1); run executioner(); run auditor()
	}
}
#endif

#if SCENE == 3 /* A family: the parent forks and gives back what its child has too, the child gives it back, either dies. */
proctype child(byte who, at)
{
	LOCALS;
end_unborn:
	owner[at] == who;
	{
		page[0] = page[0] & 2;
		holding[at] = holding[at] - 1;
		trim_family(at);
		ENDS(who)
	} unless { DIES(who, at) }
}
proctype parent(byte who, at)
{
	LOCALS;
	{
		commit(at, 2);
		d_step { page[0] = 2; page[1] = 2 };
		/* Prepare: the child's slot and what it will hold, before it is there. Its lock is the parent's for now. */
		join(who, 1);
		holding[1] = 2;
		run child(2, 1);
		d_step { page[0] = 6; page[1] = 6; holder[1] = 2; owner[1] = 2; running = running + 1 }; /* fork */
		page[0] = page[0] & 4;
		if
#ifdef BUG_NO_PIN
		:: true -> uncommit(at, 1)
#else
		:: state[1] == LIVE -> transfer(at, 1); trim_family(at)
		:: else -> uncommit(at, 1)
#endif
		fi;
		ENDS(who)
	} unless { DIES(who, at) }
}
proctype collector(byte at)
{
	LOCALS;
	collect(at, 0);
	collect(at, 1);
	trim_family(at);
	running = running - 1
}
init
{
	atomic {
		SETTLED(0, 1); SETTLED(3, 4); SETTLED(4, 6);
		running = 2;
		run parent(1, 0); run collector(3); run killer(1, 2); run auditor()
	}
}
#endif

#if SCENE == 4 /* A page of the grandparent's is also the grandchild's, whose parent has died: then it must not be given back. */
proctype grandparent(byte who, at)
{
	LOCALS;
	page[0] = page[0] & (255 - (1 << who));
	pin(at);
	if
	:: answer -> transfer(at, 1); trim_family(at)
	:: else -> uncommit(at, 1)
	fi;
	running = running - 1
}
proctype collector(byte at)
{
	LOCALS;
	collect(at, 3);
	running = running - 1
}
init
{
	atomic {
		SETTLED(0, 1); SETTLED(1, 2); SETTLED(4, 6); SETTLED(5, 7);
		state[3] = LIVE; owner[3] = 3; /* and nobody holds its lock */
		lineage[3] = 0 + 1; lineage[1] = 3 + 1;
		entry_value[0] = 1; truth[0] = 1; word_committed = 1;
		holding[1] = 1; page[0] = (1 << 1) | (1 << 2);
		running = 2;
		run grandparent(1, 0); run collector(5); run auditor()
	}
}
#endif

#if SCENE == 5 /* A member that holds what only the family is charged with forks and dies while others add up. */
proctype heir(byte who, at, child)
{
	LOCALS;
	{
		join(who, child);
		holding[child] = 1;
		d_step { page[0] = page[0] | (1 << 2); holder[child] = 2; owner[child] = 2 }; /* fork: process 2 */
		dying == who /* lives on until it is killed */
	} unless { DIES(who, at) }
}
proctype collector(byte at)
{
	LOCALS;
	collect(at, 3);
	running = running - 1
}
proctype trimmer(byte at)
{
	LOCALS;
	trim_family(at);
	running = running - 1
}
proctype executioner()
{
	dying = 1
}
init
{
	atomic {
		SETTLED(0, 4); SETTLED(3, 1); SETTLED(4, 6); SETTLED(5, 7);
		entry_value[FAMILY] = 1; truth[FAMILY] = 1; word_committed = 1;
		holding[3] = 1; page[0] = 1 << 1;
		running = 3;
		run heir(1, 3, 1); run collector(5); run trimmer(0); run executioner(); run auditor()
	}
}
#endif
