"""Frames of the functions and classes that everybody writes, for `tiny_idioms` to fill in.

1. The first line of a function frame holds, apart by spaces: the kind of the result (i int, s str, I and S lists of
   them, b bool, f float, u and n sets, d dict, g nested list, p path, - nothing), the alternatives of the name, and each
   parameter as alternatives:kind. The lines below are the body, in which {0} {1} are the parameters, {r} a result,
   {e} an element, {i} an index and {name} the function itself.
2. The first line of a class frame holds the alternatives of the name and the parameters of `__init__`, which become
   attributes {0} {1}. Each line below is a method: alternatives, kind of the result, parameters {m0}, and after `|` its
   statements, apart by `; `.
"""

_INTS, _WORDS = "numbers|values|nums|items|data|scores|xs:I", "words|names|items|lines|tags|data:S"
_N, _A, _B, _T = "n|x|number|num|value|count:i", "a|x|first|left|n:i", "b|y|second|right|m:i", "text|word|s|name|line:s"

FUNCTIONS = f"""
i add|add_numbers|sum_two|plus|combine {_A} {_B}
    return {{0}} + {{1}}
i subtract|minus|difference_of|compute {_A} {_B}
    return {{0}} - {{1}}
i multiply|times|get_product|calculate {_A} {_B}
    {{r}} = {{0}} * {{1}}
    return {{r}}
i add_three|sum_three|combine a|x|first:i b|y|second:i c|z|third:i
    return {{0}} + {{1}} + {{2}}
f divide|safe_divide {_A} {_B}
    if {{1}} == 0:
        raise ValueError("Cannot divide by zero")
    return {{0}} / {{1}}
- greet|say_hello|welcome_user name|person|user|who:s
    print(f"Hello, {{{{{{0}}}}}}")
s greet|make_greeting|format_name name|first_name|user:s
    return f"Hi {{{{{{0}}}}}}"
- show_user|print_user|introduce name|user_name|title:s age|score|level:i
    print(f"{{{{{{0}}}}}} is {{{{{{1}}}}}}")
- print_info|show_info|log_value {_T} {_N}
    print({{0}})
    print(f"{{{{{{1}}}}}}")
b is_even|check_even {_N}
    return {{0}} % 2 == 0
b is_odd|check_odd {_N}
    if {{0}} % 2 == 0:
        return False
    else:
        return True
b is_positive|check_value|is_allowed {_N}
    if {{0}} > 0:
        return True
    return False
b is_adult|can_vote|check_age age|years|value:i
    if {{0}} >= 18:
        return True
    return False
b contains|has_value|find_number {_INTS} x|target|value:i
    for {{e}} in {{0}}:
        if {{e}} == {{1}}:
            return True
    return False
i find_max|get_largest|maximum_of {_INTS}
    {{r}} = {{0}}[0]
    for {{e}} in {{0}}:
        if {{e}} > {{r}}:
            {{r}} = {{e}}
    return {{r}}
i find_min|get_smallest {_INTS}
    {{r}} = {{0}}[0]
    for {{e}} in {{0}}:
        if {{e}} < {{r}}:
            {{r}} = {{e}}
    return {{r}}
i calculate_total|sum_all|get_sum|sum_numbers {_INTS}
    {{r}} = 0
    for {{e}} in {{0}}:
        {{r}} += {{e}}
    return {{r}}
i factorial|fact n|x|num:i
    if {{0}} == 0:
        return 1
    return {{0}} * {{name}}({{0}} - 1)
i fibonacci|fib n|count|limit:i
    a, b = 0, 1
    for {{i}} in range({{0}}):
        a, b = b, a + b
    return a
i sum_to|sum_range n|limit|stop:i
    {{r}} = 0
    for {{i}} in range({{0}}):
        {{r}} += {{i}}
    return {{r}}
i gcd|common_divisor a|x|m:i b|y|n:i
    while 0 < {{1}}:
        {{0}}, {{1}} = {{1}}, {{0}} % {{1}}
    return {{0}}
- swap_values|exchange a|x|first|left:i b|y|second|right:i
    {{0}}, {{1}} = {{1}}, {{0}}
    print({{0}}, {{1}})
u get_unique|unique_words|collect_names {_WORDS}
    {{r}} = set()
    for {{e}} in {{0}}:
        {{r}}.add({{e}})
    return {{r}}
n unique_values|find_duplicates|collect_ids {_INTS}
    seen = set()
    {{r}} = set()
    for {{e}} in {{0}}:
        if {{e}} in seen:
            {{r}}.add({{e}})
        seen.add({{e}})
    return {{r}}
b has_duplicates|has_repeats {_INTS}
    seen = set()
    for {{e}} in {{0}}:
        if {{e}} in seen:
            return True
        seen.add({{e}})
    return False
s join_words|build_text|concat|make_sentence {_WORDS}
    {{r}} = ""
    for {{e}} in {{0}}:
        {{r}} += {{e}}
    return {{r}}
s repeat|repeat_text|make_line {_T} n|times|count:i
    {{r}} = ""
    for {{i}} in range({{1}}):
        {{r}} += {{0}}
    return {{r}}
s reverse|reverse_text|flip {_T}
    {{r}} = ""
    for char in {{0}}:
        {{r}} = char + {{r}}
    return {{r}}
s remove_spaces|clean_text|strip_text {_T}
    {{r}} = ""
    for c in {{0}}:
        if c != " ":
            {{r}} += c
    return {{r}}
i count_vowels|count_letters {_T}
    {{r}} = 0
    for c in {{0}}:
        if c in "aeiou":
            {{r}} += 1
    return {{r}}
I double_all|scale_values|get_doubled {_INTS}
    return [x * 2 for x in {{0}}]
I get_squares|square_all n|limit|count:i
    {{r}} = []
    for {{i}} in range({{0}}):
        {{r}}.append({{i}} ** 2)
    return {{r}}
I filter_even|get_evens {_INTS}
    {{r}} = []
    for {{e}} in {{0}}:
        if {{e}} % 2 == 0:
            {{r}}.append({{e}})
    return {{r}}
s read_file|load_text|read_data path|filename|file_path|file_name:p
    with open({{0}}) as f:
        return f.read()
S read_lines|load_lines|load_words path|filename|file_path:p
    with open({{0}}, "r") as file:
        lines = file.readlines()
    return lines
- write_file|save_text|save_data path|filename|file_path:p text|data|content|message:s
    with open({{0}}, "w") as f:
        f.write({{1}})
- append_log|write_log path|log_file|filename:p message|line|text:s
    with open({{0}}, "a") as log:
        log.write({{1}})
s classify|get_sign|sign_of {_N}
    if {{0}} > 0:
        return "positive"
    elif {{0}} < 0:
        return "negative"
    else:
        return "zero"
s get_grade|grade_of|rate_score score|points|marks:i
    if {{0}} >= 90:
        return "A"
    elif {{0}} >= 80:
        return "B"
    else:
        return "C"
- check_temperature|check_level temp|temperature|level|speed:i
    if {{0}} > 30:
        print("Too high")
    elif {{0}} < 10:
        print("Too low")
    else:
        print("OK")
d count_words|count_items|get_counts {_WORDS}
    counts = {{{{}}}}
    for {{e}} in {{0}}:
        counts[{{e}}] = counts.get({{e}}, 0) + 1
    return counts
- print_items|show_items|list_names {_WORDS}
    for {{i}}, {{e}} in enumerate({{0}}):
        print({{i}}, {{e}})
i find_index|index_of {_WORDS} target|key|word:s
    for {{i}}, {{e}} in enumerate({{0}}):
        if {{e}} == {{1}}:
            return {{i}}
    return -1
i sum_matrix|grid_total matrix|grid|rows|table:g
    {{r}} = 0
    for row in {{0}}:
        for {{e}} in row:
            {{r}} += {{e}}
    return {{r}}
g make_grid|build_matrix|create_board rows|height|n:i cols|width|m:i
    {{r}} = []
    for {{i}} in range({{0}}):
        {{r}}.append([0] * {{1}})
    return {{r}}
b is_prime|check_prime n|x|num|number:i
    if {{0}} < 2:
        return False
    for {{i}} in range(2, {{0}}):
        if {{0}} % {{i}} == 0:
            return False
    return True
b is_palindrome|is_same {_T}
    return {{0}} == {{0}}[::-1]
b is_long|check_password|is_valid_name {_T}
    if len({{0}}) > 8:
        return True
    else:
        return False
- countdown|count_down n|count|start_value:i
    while {{0}} > 0:
        print({{0}})
        {{0}} -= 1
    print("Done")
i count_up|wait_for|run_loop limit|stop|n|max_value:i
    {{r}} = 0
    while {{r}} < {{0}}:
        {{r}} += 1
    return {{r}}
i ask_number|read_number|find_power limit|target|n:i
    x = 1
    while True:
        x = x * 2
        if x > {{0}}:
            return x
i max_of|bigger|larger_of {_A} {_B}
    return {{0}} if {{0}} > {{1}} else {{1}}
s get_status|status_text|check_status done|ready|ok|active|flag:b
    return "yes" if {{0}} else "no"
i get_area|compute_area|area_of width|w|length|a:i height|h|b:i
    return {{0}} * {{1}}
i get_volume|volume_of width|w|x:i height|h|y:i depth|d|z:i
    {{r}} = {{0}} * {{1}} * {{2}}
    return {{r}}
i apply|transform_value {_N}
    def helper(x):
        return x * 2
    return helper({{0}})
i process|process_data|run_task {_INTS}
    def helper(a, b):
        return a + b
    {{r}} = 0
    for {{e}} in {{0}}:
        {{r}} = helper({{r}}, {{e}})
    return {{r}}
s format_price|format_text|decorate {_T}
    def helper(s):
        return s.upper()

    return helper({{0}})
f average|mean_of|get_average {_INTS}
    if not {{0}}:
        return 0.0
    return sum({{0}}) / len({{0}})
i power|power_of base|x|n:i exp|times|k:i
    {{r}} = 1
    for {{i}} in range({{1}}):
        {{r}} *= {{0}}
    return {{r}}
I sort_items|bubble_sort|sort_numbers {_INTS}
    n = len({{0}})
    for i in range(n):
        for j in range(n - 1):
            if {{0}}[j] > {{0}}[j + 1]:
                {{0}}[j], {{0}}[j + 1] = {{0}}[j + 1], {{0}}[j]
    return {{0}}
"""

CLASSES = """
Person|User|Student|Employee name|first_name:s age|score|level:i
    greet|say_hello|introduce - | print(f"Hello, {{self.{0}}}")
    birthday|grow|level_up - | self.{1} += 1
Dog|Cat|Bird|Animal name|breed|color:s
    speak|bark|describe - | print(f"{{self.{0}}}")
Dog|Cat|Pet name:s age|weight:i
    speak|make_sound s | return "Woof"
    is_old|is_adult b | return self.{1} > 5
Point|Vector|Position x:i y:i
    move - dx:i dy:i | self.x += dx; self.y += dy
    length|norm i | return self.x * self.x + self.y * self.y
Rectangle|Box|Shape|Room width|w|length:i height|h|depth:i
    area|get_area i | return self.{0} * self.{1}
    scale|resize - factor|k:i | self.{0} *= {m0}
BankAccount|Account|Wallet owner|name|user:s balance|amount|total:i
    deposit|add - amount|value:i | self.{1} += {m0}
    withdraw|pay b amount|price:i | if {m0} > self.{1}:;    return False; self.{1} -= {m0}; return True
Counter|Timer|Clock count|value|ticks:i
    increment|tick|update - | self.{0} += 1
    reset|clear - | self.{0} = 0
Circle|Ball|Wheel radius|r|size:i
    area|get_area f | return 3.14 * self.{0} ** 2
Car|Vehicle|Robot|Player speed|position|health:i
    drive|run|move i distance|steps|n:i | self.{0} = self.{0} + {m0}; return self.{0}
Book|Movie|Song|Product title|name|label:s price|pages|year:i
    show|describe|display - | print(self.{0}, self.{1})
    get_title|get_name s | return self.{0}
Stack|Queue|Cart|Inventory items|data|values:I
    push|add|insert_item - item|value|x:i | self.{0}.append({m0})
    is_empty|has_none b | return len(self.{0}) == 0
Team|Library|Playlist names|players|books:S
    add|join_team|add_name - name|item|title:s | self.{0}.append({m0})
    count_all|get_size i | return len(self.{0})
Logger|Message|Note text|message|line:s
    log|write|extend_text - extra|part|word:s | self.{0} += {m0}
    show|print_all - | print(self.{0})
"""
