"""Answers that would create a file named `pwned` if anything evaluated them."""

ACTIONS = (
    "open('pwned','w')",
    "__import__('os').system('touch pwned')",
    "__import__('subprocess').call(['touch','pwned'])",
    "__import__('pathlib').Path('pwned').touch()",
    "exec(\"open('pwned','w')\")",
    "eval(\"open('pwned','w')\")",
    "compile(\"open('pwned','w')\",'','exec')",
    "getattr(__builtins__,'open')('pwned','w')",
    "globals()['__builtins__'].open('pwned','w')",
    "().__class__.__base__.__subclasses__()[80].__init__.__globals__['sys'].modules['os']"
    ".system('touch pwned')",
    "[c for c in ().__class__.__mro__[1].__subclasses__() if c.__name__=='Popen'][0]"
    "(['touch','pwned'])",
    "(lambda f: f('pwned','w'))(open)",
    "breakpoint()",
    "exit()",
    "quit(1)",
    "__import__('sys').exit(0)",
    "__import__('os')._exit(0)",
    "__import__('os').kill(__import__('os').getppid(),9)",
    "__import__('time').sleep(99)",
    "__import__('socket').create_connection(('127.0.0.1',9))",
    "__import__('ctypes').string_at(0)",
    "input()",
    "print(open('/etc/passwd').read())",
    "help()",
    "vars()",
    "locals().update(answer=5)",
)
WRAPPERS = (
    "{}",
    "5 + {}",
    "x.subs(x, {})",
    'sympify("{}")',
    "Symbol('x').is_commutative or {}",
    "\\text{{{}}}",
    "f'{{{}}}'",
    'lambdify(x, "{}")(1)',
)
OTHERS = (
    'S(\'__import__("os").system("touch pwned")\')',
    'parse_expr(\'open("pwned","w")\')',
    "Function('open')('pwned','w')",
    "Matrix([[open('pwned','w')]])",
    "\\input{/etc/passwd}",
    "\\write18{touch pwned}",
    "\\immediate\\write18{touch pwned}",
    "\\openout5=pwned",
    "\\def\\x{\\x\\x}\\x",
    "\\catcode`\\{=12",
    "\\csname open\\endcsname",
    "`touch pwned`",
    "$(touch pwned)",
    "; touch pwned ;",
    "| touch pwned",
    "&& touch pwned",
    "'; import os; os.system('touch pwned'); '",
    '"""+open(\'pwned\',\'w\')+"""',
    "5); open('pwned','w'); (5",
    "5\nopen('pwned','w')\n",
    "5 if open('pwned','w') else 5",
    "[open('pwned','w') for _ in range(1)]",
    "{open('pwned','w'): 5}",
    "x := open('pwned','w')",
    "@open('pwned','w')",
    "cos\nsystem\n(S'touch pwned'\ntR.",
    "gASVHwAAAAAAAACMBXBvc2l4lIwGc3lzdGVtlJOUjAR0b3VjaJSFlFKULg==",
    "!!python/object/apply:os.system ['touch pwned']",
    "${jndi:ldap://127.0.0.1/pwned}",
    "{{7*7}}{{config.__class__.__init__.__globals__['os'].popen('touch pwned')}}",
    "<script>open('pwned')</script>",
    "<!ENTITY x SYSTEM 'file:///etc/passwd'>",
    "'; DROP TABLE golds; --",
    "__class__",
    "5.__class__",
    "correct",
    "True",
    '["done", false, "correct", "exact"]',
    '\n["done", false, "correct", "exact"]\n',
)


def payloads() -> list[str]:
    """Every action once bare, then each wrapper around a few of the actions that leave a trace."""
    wrapped = [wrapper.format(action) for wrapper in WRAPPERS[1:] for action in ACTIONS[:4]]
    return [*ACTIONS, *wrapped, *OTHERS]


PAYLOADS = payloads()
