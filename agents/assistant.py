"""The agent that answers out of the box. Change it, or put another file beside it.

The model in the wheel is very small and calls no tools; with any larger one (MODEL_NAME=openai:gpt-5-mini and
MODEL_API_KEY, or MODEL_ENDPOINT for your own) the three tools below come to life.
"""

import ast
import operator
from datetime import date, datetime
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from agent_core import Agent, ToolError, tool

OPERATIONS = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
    ast.UAdd: operator.pos,
    ast.USub: operator.neg,
}


@tool
def current_time(zone: str = "UTC") -> str:
    """The date, weekday and time now, in an IANA time zone such as "Europe/Paris"."""
    try:
        return datetime.now(ZoneInfo(zone)).strftime("%A %Y-%m-%d %H:%M:%S %Z")
    except (ZoneInfoNotFoundError, ValueError):
        raise ToolError(
            f"{zone!r} is no time zone; give one like Asia/Shanghai or America/New_York"
        ) from None


@tool
def calculate(expression: str) -> float:
    """The value of an arithmetic expression with + - * / // % ** and parentheses, such as "(17 + 25) * 3"."""
    try:
        return value_of(ast.parse(expression.strip(), mode="eval").body)
    except (SyntaxError, ArithmeticError, RecursionError) as error:
        raise ToolError(f"{expression!r} can't be calculated: {error}") from None


@tool
def days_between(start: date, end: date) -> int:
    """How many days lie between two dates; negative when the end comes first."""
    return (end - start).days


def value_of(node: ast.expr) -> float:
    """Arithmetic and nothing else: no names, no calls, no powers that take for ever."""
    match node:
        case ast.Constant(value=int() | float() as number) if not isinstance(number, bool):
            return number
        case ast.UnaryOp(op=op, operand=operand) if type(op) in OPERATIONS:
            return OPERATIONS[type(op)](value_of(operand))
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATIONS:
            first, second = value_of(left), value_of(right)
            if isinstance(op, ast.Pow) and (abs(first) > 1e6 or abs(second) > 100):
                raise ToolError("that power is too large")
            value = OPERATIONS[type(op)](first, second)
            if isinstance(value, complex) or abs(value) > 1e300:
                raise ToolError(f"{ast.unparse(node)} is no number of reasonable size")
            return value
    raise ToolError("only numbers, + - * / // % ** and parentheses can be used")


agent = Agent(
    name="assistant",
    description="Answers questions; tells the time, calculates, counts days.",
    instructions="You are a helpful assistant who gives short, correct answers.",
    model="local:smollm2",
    tools=[current_time, calculate, days_between],
)
