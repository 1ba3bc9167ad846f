"""The words of the tiny Python corpus: identifiers by kind, and the helpers that turn word lists into pools.

Every pool is a tuple of 2^k ready-made pieces of text, so that drawing one costs one `getrandbits(k)` and one index:
that is what makes the corpus fast enough to be endless. A piece that should be frequent simply occurs several times.

1. `EVERYDAY` holds the names of real scripts (x, count, name, items ...), `TYPICAL` those that go with one kind
   (`words` is a list of strings, `is_valid` a bool); nouns and compounds of two words are the long tail.
2. Names only lean towards a kind: each kind draws half of its names from the lists all kinds share. Accumulators draw
   from one list, so `result = set()` and `result = ""` are equally common and only the assignment tells them apart.
3. Variables and functions are disjoint, so a variable never shadows a function. No word is a keyword or a builtin.
4. `pool` spreads items by weight in a fixed shuffled order. Its generator has a constant seed of its own, so pools are
   the same on every machine and never depend on the order of a set.
"""

from collections.abc import Iterable, Sequence
from random import Random

_SEED = 20  # any constant: it fixes the pools, not the programs

INT, STR, INTS, STRS, GRID, SET, NUMS, DICT, BOOL, OBJ, FLOAT, PAIRS, PATH, LOCK, ANY = range(15)
KINDS = 15


def words(text: str) -> tuple[str, ...]:
    """The words of a text."""
    return tuple(text.split())


def pool(items: Iterable[tuple[str, float]], bits: int) -> tuple[str, ...]:
    """2^bits entries in a fixed shuffled order: each item in proportion to its weight, and at least once if it fits."""
    rows, size = list(items), 1 << bits
    total = sum(weight for _, weight in rows)
    entries = [item for item, weight in rows for _ in range(max(1, int(size * weight / total)))][:size]
    entries += [rows[place % len(rows)][0] for place in range(size - len(entries))]
    Random(f"{_SEED} {bits} {entries[0]} {len(rows)}").shuffle(entries)
    return tuple(entries)


def even(items: Iterable[str], weight: int) -> list[tuple[str, float]]:
    """The items share `weight` evenly."""
    rows = list(items)
    return [(item, weight / len(rows)) for item in rows]


def zipf(items: Iterable[str], weight: int) -> list[tuple[str, float]]:
    """The items share `weight` as words of a language do: the r-th in proportion to 1 / (r + 4)."""
    rows = list(items)
    total = sum(1 / (rank + 5) for rank in range(len(rows)))
    return [(item, weight / (rank + 5) / total) for rank, item in enumerate(rows)]


NOUNS: tuple[str, ...] = words(
    """
    item value name key word line text data result count node token score label group table row column
    cell field record entry event price cost rate size width height depth level limit step page block chunk
    batch part piece section chapter title author book letter note message mail reply answer question topic
    color shape point edge graph tree leaf root branch parent child owner member guest player team game card
    deck board tile city town street house room door window wall garden farm plant flower fruit
    apple pear lemon bread cake salt sugar water milk tea coffee cup plate bowl box bag basket car truck plane
    ship boat bike wheel engine road bridge tunnel station port gate ticket trip distance speed date day
    week month year hour minute second moment season winter summer rain snow wind cloud sky sun moon star
    river lake sea island beach hill mountain valley forest desert stone rock sand metal gold silver iron
    glass paper wood cotton wool silk shirt coat hat shoe ring clock bell lamp candle fire smoke heat
    energy signal sensor device machine robot motor button switch screen camera image photo picture pixel
    video song music sound voice noise tone beat track album artist band guitar piano drum dance film actor
    scene story poem model layer weight bias loss gain vector offset margin border corner center circle
    angle queue stack heap cache buffer stream packet socket server client host session request response
    header body query cursor view form menu option choice setting config profile account balance payment
    invoice product stock store market shop customer worker manager office company project task plan goal
    target budget report summary detail status state mode reason cause effect change version source module
    package folder archive script command argument variable number digit total average path user
    """
)
ADJECTIVES: tuple[str, ...] = words(
    """
    old new first last next small large big tiny short long high low left right top main local public active
    hidden closed free busy fast slow early late final full empty raw clean dirty red green blue black white
    dark bright warm cold hot dry wet soft hard heavy light strong weak rich poor young best worst extra spare
    common rare single base inner outer upper lower north south east west end default
    custom remote daily weekly known current previous max min total user file
    """
)
VERBS: tuple[str, ...] = words(
    """
    get make load save read write send fetch find add remove update create build parse check run stop
    close show hide draw paint compute convert copy merge split join select pick choose drop push pull move
    swap reset clear handle process scan search look replace apply call notify emit collect gather rank
    compare validate verify encode decode pack wrap render export download upload connect register visit walk
    calculate sort filter_out insert delete setup init prepare
    """
)
EVERYDAY: tuple[str, ...] = words(
    """
    x y result data value name a b count items total n numbers text values words key i s line item user path
    names number z t c temp current score start end index left right age user_id first second price message
    d j p k m v w q u r num size limit width height max_value min_value lines users scores points rows cols row col
    matrix grid flag found done ready status level step low high title email city color country year day month
    first_name last_name user_name file_name username filename password total_price total_count item_count
    max_size min_size word_count line_count counter output content buffer letters letter char chars digit
    keys entries entry record records node nodes seen visited unique stack queue cache config settings options
    response request query lookup mapping table states state speed distance weight amount balance rate cost
    length area radius average maximum minimum answer guess target position offset page pages
    product products order orders cart stock inventory student students grade grades team player players
    board cell cells fruit fruits animal animals book books tag tags label labels token tokens colors cities
    first_item last_item new_value old_value new_list new_name old_name is_valid has_next is_done is_active
    """
)
TYPICAL: dict[int, tuple[str, ...]] = {
    INT: words(
        """x count n total y a number b age value score i num size limit z index year price level width height
        j c k points step user_id max_value amount counter low high start end left right balance speed max_size
        min_size quantity position length distance first second temp day month hour retries attempts steps"""
    ),
    STR: words(
        """name text word s message line key title user first_name city color greeting last_name email a b x t
        password username label status mode country animal fruit letter prefix suffix language user_name answer
        command role state phrase sentence first second left right day season food"""
    ),
    INTS: words(
        """numbers values nums items scores data x a xs ages prices results points digits totals numbers_list
        grades lengths sizes primes evens counts levels weights temperatures left right first second y"""
    ),
    STRS: words(
        """names words items fruits lines users colors data files keys letters animals cities tags tokens labels
        students players books messages parts fields tasks todo_list emails days options languages guests"""
    ),
    GRID: words("""matrix grid rows table board data x points pairs m cells values a groups mat y batches layers"""),
    SET: words("""seen unique names tags words visited items letters colors users keys x fruits vowels allowed a s"""),
    NUMS: words("""seen numbers unique ids primes visited values x a s nums evens odds items y codes"""),
    DICT: words(
        """ages scores data config counts d prices user person settings inventory stock grades totals mapping
        options table lookup cache points students x params weights"""
    ),
    BOOL: words(
        """found done ready is_valid flag active has_next running valid is_active enabled success is_ready debug
        is_done finished ok verbose is_open visible is_empty_list has_items is_admin logged_in connected changed"""
    ),
    OBJ: words("""result response obj client data session node item thing user value conn app service task x"""),
    FLOAT: words(
        """price total rate average temperature tax ratio x y value discount cost weight height speed radius area
        balance amount score percent mean distance delay factor scale"""
    ),
    PAIRS: words("""pairs points items data records entries results scores users rows edges people"""),
    PATH: words(
        """path filename file_name file_path path path filename input_file log_file output_path config_path
        data_path source target name input_path output_file log_path csv_path data_file"""
    ),
    LOCK: ("lock",) * 6 + words("mutex data_lock counter_lock guard"),
    ANY: words("""result point value data x node pair best coords position current_item answer previous last p"""),
}
ACCUMULATED: tuple[str, ...] = words(
    """
    result seen output text found s words total unique items visited letters data out value buffer message tags
    line names res acc chars content values parts x v keys collected matches string_value history
    first rest other left right summary log_text answer combined done codes
    """
)
FUNCTION_WORDS: tuple[str, ...] = words(
    """
    add f greet main process get_name process_data square multiply calculate load run print_items check g
    is_even load_config say_hello calculate_total get_data save update compute divide subtract get_value load_data
    find_max read_file is_prime h func test setup factorial show make create build helper_func handle send format_name
    get_user add_item remove_item get_total compute_area find_user parse_line count_words reverse_words
    print_message get_age set_name sum_numbers filter_items sort_items create_user update_score get_score
    is_palindrome is_empty is_odd is_positive has_access log_message write_file open_file fetch_data
    get_price apply_discount convert validate check_age double triple power_of increment make_adder
    save_user send_email get_first get_last find_index search transform combine merge clean_text
    """
)
CLASS_WORDS: tuple[str, ...] = words(
    """
    Person Dog Point Account Node Stack User Car Animal Rectangle BankAccount Box Counter Student Circle Cat Book
    Queue Player Shape Employee Item Vector Game Product Cart Library Robot Server Client Config Task Timer Logger
    Cache Team Shop House Team Order Customer Matrix Graph Tree LinkedList Square Bird Vehicle Parser Reader Writer
    Handler Manager Worker Machine Inventory Message Event Song Playlist Movie Teacher School Course Garden
    """
)
METHOD_WORDS: tuple[str, ...] = words(
    """
    add get show update run describe speak greet get_name push pop is_empty deposit withdraw move reset
    increment display stop set_name get_value print_info bark drive load save process send remove to_string
    get_total get_area rename birthday add_item remove_item get_items clear info check
    """
)
_METHODS = words(
    """
    send write log find get load save open stop update push emit notify call read fetch select remove
    register handle check visit connect warn info debug show
    """
)
_MODULES = words("tools helpers utils common core app store network services shared models parser engine backend")
_IRREGULAR = (
    *("cities city", "entries entry", "boxes box", "people person", "matches match_text", "queries query"),
    *("nums num", "xs x", "primes p", "evens num", "ages age", "cols col", "chars char", "seen item", "visited node"),
)
SINGULAR: dict[str, str] = {
    **{f"{noun}s": noun for noun in (*NOUNS, *words("digit fruit animal student tag user letter friend job"))},
    **dict(pair.split() for pair in _IRREGULAR),
}
"""The loop variable that goes with a plural name."""


def compounds(firsts: Sequence[str], seconds: Sequence[str], count: int) -> list[str]:
    """`count` different pairs `first_second`, spread evenly over both lists."""
    pairs = [f"{first}_{second}" for first in firsts for second in seconds if first != second]
    Random(_SEED).shuffle(pairs)
    return pairs[:count]


_TAIL = [*compounds(ADJECTIVES, NOUNS, 4400), *compounds(NOUNS, NOUNS, 1600)]


_COUNTERS = {"i", "j", "k", "n", "num", "index", "idx"}


def _kind_pool(kind: int) -> tuple[str, ...]:
    """4,096 names of one kind: half of them typical, the rest everyday names, nouns, and a part of the long tail."""
    if kind == LOCK:
        return pool([*even(TYPICAL[kind], 95), *even((f"{noun}_lock" for noun in NOUNS[:60]), 5)], 12)
    tail = _TAIL[kind::KINDS] + _TAIL[(kind + 4) % KINDS :: KINDS]
    if kind == PATH:
        return pool([*zipf(TYPICAL[kind], 80), *even((f"{noun}_path" for noun in NOUNS[:150]), 20)], 12)
    everyday = [name for name in EVERYDAY if name not in _COUNTERS or kind in (INT, STR)]
    return pool([*zipf(TYPICAL[kind], 40), *zipf(everyday, 30), *even(NOUNS, 10), *even(tail, 20)], 12)


POOLS = tuple(_kind_pool(kind) for kind in range(KINDS))
"""names of each kind"""
ACCUMULATORS = pool([("current", 50.0), *zipf(ACCUMULATED, 38), *even(NOUNS, 6), *even(_TAIL[:300], 6)], 12)
FUNCTIONS = pool([*zipf(FUNCTION_WORDS, 50), *even(VERBS, 10), *even(compounds(VERBS, NOUNS, 1800), 40)], 12)
CLASSES = pool(
    [
        *zipf(CLASS_WORDS, 60),
        *even((name.title() for name in NOUNS), 20),
        *even((name.title().replace("_", "") for name in compounds(ADJECTIVES, NOUNS, 800)), 20),
    ],
    12,
)
OWN_METHODS = pool([*zipf(METHOD_WORDS, 75), *even(VERBS, 25)], 10)
METHODS = pool(even(_METHODS, 1), 6)
MODULES = pool(even(_MODULES, 1), 5)
