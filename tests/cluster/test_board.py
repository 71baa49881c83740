import asyncio
from typing import Any

from cluster.board import Board


def test_a_group_does_stage_after_stage_and_a_restarted_one_finds_its_own_again():
    async def story() -> list[Any]:
        board, done = Board(), []

        async def group(stages: int) -> None:
            for _ in range(stages):
                stage = await board.next()
                if stage is None:
                    return
                done.append(stage)
                await board.end()

        async def lost() -> None:
            done.append(await board.next())

        first = asyncio.ensure_future(board.do(["first"]))
        await asyncio.wait_for(lost(), 1)  # it never says that the stage has ended
        working = asyncio.ensure_future(group(9))
        await asyncio.wait_for(first, 1)
        await asyncio.wait_for(board.do(["second"]), 1)
        await board.close()
        await asyncio.wait_for(working, 1)
        return done

    assert asyncio.run(story()) == [["first"], ["first"], ["second"]]


def test_a_question_waits_for_its_answer_also_if_it_is_asked_again():
    async def story() -> tuple[Any, Any, Any]:
        board = Board()
        lost = asyncio.ensure_future(board.ask(20, ["weights"]))
        question = await asyncio.wait_for(board.question(), 1)
        lost.cancel()  # the group died, and the one in its place asks the same
        again = asyncio.ensure_future(board.ask(20, ["weights"]))
        await asyncio.sleep(0)
        await board.answer(20, 0.75)
        answer = await asyncio.wait_for(again, 1)
        waiting = asyncio.ensure_future(board.question())
        await asyncio.sleep(0.01)
        return question, answer, waiting.done()

    assert asyncio.run(story()) == ((20, ["weights"]), 0.75, False)
