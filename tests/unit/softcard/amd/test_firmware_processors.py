"""PSP and SMU: what they do in order, and what they do not do out of order."""

import pytest
from tests.softcard.bring_up import PIECES, STAGING, Hands

from exosuit.silicon.amd import psp, smu
from exosuit.silicon.amd.chips import find_chip
from exosuit.silicon.amd.firmware import PieceType, PspPieceType
from exosuit.silicon.amd.psp import BootloaderCommand, CommandId, ControlCommand
from exosuit.softcard.card import Refused


def hands(target: str = "gfx1100", *, strict: bool = True) -> Hands:
    return Hands.take(target, strict=strict)


def test_the_secure_os_starts_after_its_pieces():
    card = hands()
    assert not psp.ControlStatus(card.psp.C2PMSG_64.read()).ready
    card.load_os()
    assert card.psp.C2PMSG_81.read() != 0
    assert psp.ControlStatus(card.psp.C2PMSG_64.read()).ready


@pytest.mark.parametrize("missing", [PspPieceType.KDB, PspPieceType.SYS_DRV])
def test_the_secure_os_does_not_start_without(missing: PspPieceType):
    with pytest.raises(Refused, match="LOAD_SOSDRV without"):
        hands().load_os(skip=[missing])
    card = hands(strict=False)
    card.load_os(skip=[missing])
    assert card.psp.C2PMSG_81.read() == 0
    assert psp.BootloaderStatus(card.psp.C2PMSG_35.read()).error


def test_pieces_out_of_order_are_refused():
    card = hands()
    card.psp.C2PMSG_36.write(card.mc_base + STAGING >> 20)
    card.psp.C2PMSG_35.write(BootloaderCommand.LOAD_SYSDRV)
    with pytest.raises(Refused, match="LOAD_KEY_DATABASE after LOAD_SYSDRV"):
        card.psp.C2PMSG_35.write(BootloaderCommand.LOAD_KEY_DATABASE)


def test_a_piece_at_an_offset_instead_of_an_mc_address_is_refused():
    card = hands()
    card.psp.C2PMSG_36.write(STAGING >> 20)
    with pytest.raises(Refused, match="outside local memory"):
        card.psp.C2PMSG_35.write(BootloaderCommand.LOAD_KEY_DATABASE)


def test_a_user_mode_ring_is_ignored():
    card = hands(strict=False)
    card.load_os()
    card.create_ring(ControlCommand.CREATE_RING_UM)
    assert card.command(CommandId.LOAD_TOC, toc=psp.LoadToc, toc_size=16) == -1


def test_a_ring_needs_the_secure_os():
    with pytest.raises(Refused, match="before the secure OS"):
        hands().create_ring()


def test_the_order_of_commands():
    card = hands()
    card.load_os()
    card.create_ring()
    with pytest.raises(Refused, match="before the table of contents"):
        card.load(PieceType.SMU)
    card.command(CommandId.LOAD_TOC, toc=psp.LoadToc, toc_size=0x900)
    assert card.answer.tmr_size == 0x130_0000
    card.load(PieceType.SMU)
    with pytest.raises(Refused, match="before SETUP_TMR"):
        card.load(PieceType.RS64_MEC)
    with pytest.raises(Refused, match="AUTOLOAD_RLC without"):
        card.command(CommandId.AUTOLOAD_RLC)
    with pytest.raises(Refused, match="type 87"):
        card.load(PieceType.RS64_PFP)  # gfx11 has none of its own


def test_every_piece_is_needed():
    for left_out in PIECES[13][:-1]:
        card = hands(strict=False)
        PIECES_HERE = [piece for piece in PIECES[13] if piece != left_out]
        card.load_os()
        card.create_ring()
        card.command(CommandId.LOAD_TOC, toc=psp.LoadToc, toc_size=0x900)
        card.load(PieceType.SMU)
        card.command(
            CommandId.SETUP_TMR,
            toc=psp.SetupTmr,
            buffer_low=(card.mc_base + 0x200000) & 0xFFFF_FFFF,
            buffer_high=(card.mc_base + 0x200000) >> 32,
            buffer_size=0x130_0000,
        )
        for piece in PIECES_HERE:
            assert card.load(piece) == 0
        assert card.command(CommandId.AUTOLOAD_RLC) == psp.CommandStatus.BAD_PARAMETERS
        assert not card.gfx.RLC_RLCS_BOOTLOAD_STATUS.read() >> 31


def test_rlc_g_comes_last():
    card = hands(strict=False)
    card.start_psp()
    card.load(PieceType.IMU_I)
    assert "after RLC_G" in card.card.notes[-1]


def test_the_next_generation_has_its_memory_from_power_on():
    card = hands("gfx1201")
    card.start_psp()
    with pytest.raises(Refused, match="SETUP_TMR"):
        card.command(CommandId.SETUP_TMR, toc=psp.SetupTmr, buffer_size=0x130_0000)


def test_navi_32_asks_for_more():
    card = hands("gfx1101")
    card.load_os()
    card.create_ring()
    card.command(CommandId.LOAD_TOC, toc=psp.LoadToc, toc_size=0x900)
    assert card.answer.tmr_size > 0x130_0000


@pytest.mark.parametrize(
    ("command", "status"), [(0x99, psp.CommandStatus.UNKNOWN_COMMAND), (CommandId.DESTROY_TMR, 0)]
)
def test_other_commands(command: int, status: int):
    card = hands(strict=False)
    card.start_psp()
    assert card.command(command) == status


def test_the_ring_wraps_and_is_made_again():
    card = hands()
    card.start_psp()
    for _ in range(150):
        assert card.load(PieceType.RLC_G) == 0
    card.psp.C2PMSG_64.write(ControlCommand.DESTROY_RINGS)
    assert card.psp.C2PMSG_71.read() == 0
    card.create_ring()
    assert card.psp.C2PMSG_67.read() == 0
    assert card.load(PieceType.RLC_G) == 0


def test_the_psp_can_reset_what_the_smu_cannot():
    card = hands()
    card.load_os()
    card.link.write_config(4, 2, 2)
    card.psp.C2PMSG_64.write(ControlCommand.MODE1_RESET)
    assert card.psp.C2PMSG_81.read() == 0
    card.load_os()


# SMU


def ask(card: Hands, message: int, argument: int = 0) -> tuple[int, int]:
    card.smu.C2PMSG_90.write(0)
    card.smu.C2PMSG_82.write(argument)
    card.smu.C2PMSG_66.write(message)
    return card.smu.C2PMSG_90.read(), card.smu.C2PMSG_82.read()


def test_messages():
    card = hands(strict=False)
    assert ask(card, smu.Message.TEST_MESSAGE, 41) == (0, 41)  # no firmware, no answer
    card.start_psp()
    assert ask(card, smu.Message.TEST_MESSAGE, 41) == (smu.Response.OK, 42)
    assert ask(card, 0x77) == (smu.Response.UNKNOWN_COMMAND, 0)
    assert ask(card, smu.Message.GET_SMU_VERSION)[1] != 0
    assert ask(card, smu.Message.SET_PPT_LIMIT, 250)[0] == smu.Response.OK
    assert ask(card, smu.Message.GET_PPT_LIMIT) == (smu.Response.OK, 250)


def test_clock_levels():
    card = hands()
    card.start_psp()
    chip = find_chip("gfx1100")
    for clock, levels in chip.clock_levels_mhz.items():
        count = smu.ClockArgument(clock=clock, value=smu.COUNT_LEVELS)
        assert ask(card, smu.Message.GET_DPM_FREQ_BY_INDEX, count)[1] == len(levels)
        for index, level in enumerate(levels):
            argument = smu.ClockArgument(clock=clock, value=index)
            assert ask(card, smu.Message.GET_DPM_FREQ_BY_INDEX, argument)[1] == level
        past = smu.ClockArgument(clock=clock, value=len(levels))
        assert ask(card, smu.Message.GET_DPM_FREQ_BY_INDEX, past)[0] == smu.Response.FAILED
    limit = smu.ClockArgument(clock=smu.Clock.GFXCLK, value=500)
    ask(card, smu.Message.SET_SOFT_MAX_BY_FREQ, limit)
    assert card.card.smu.mhz(smu.Clock.GFXCLK) == 500


def test_a_message_over_an_answer_is_refused():
    card = hands()
    card.start_psp()
    ask(card, smu.Message.TEST_MESSAGE)
    with pytest.raises(Refused, match="last response"):
        card.smu.C2PMSG_66.write(smu.Message.TEST_MESSAGE)


def test_the_metrics_table_goes_to_an_mc_address():
    card = hands()
    card.start_psp()
    at = card.mc_base + 0x70000
    ask(card, smu.Message.SET_DRIVER_DRAM_ADDR_HIGH, at >> 32)
    ask(card, smu.Message.SET_DRIVER_DRAM_ADDR_LOW, at & 0xFFFF_FFFF)
    table = smu.SMU_METRICS_TABLE
    assert ask(card, smu.Message.TRANSFER_TABLE_SMU_TO_DRAM, table)[0] == smu.Response.OK
    ask(card, smu.Message.SET_DRIVER_DRAM_ADDR_HIGH, 0)
    with pytest.raises(Refused, match="table 5"):
        ask(card, smu.Message.TRANSFER_TABLE_SMU_TO_DRAM, table)


@pytest.mark.parametrize(("target", "taken"), [("gfx1100", True), ("gfx1201", False)])
def test_mode1_reset_by_the_ordinary_mailbox(target: str, taken: bool):
    card = hands(target)
    card.start_psp()
    card.link.write_config(4, 2, 2)
    response, _ = ask(card, smu.Message.MODE1_RESET)
    assert response == (smu.Response.OK if taken else smu.Response.UNKNOWN_COMMAND)
    assert (card.psp.C2PMSG_81.read() == 0) is taken
